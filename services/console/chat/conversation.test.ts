import { expect, it } from "vitest";
import { ApiError } from "../api.ts";
import { ask, end, figuresOf, hear, isOpen, messagesFor, whyNoChat } from "./conversation.ts";

it("an exchange goes from question over thought to answer, with its times", () => {
  let one = ask(1, "why?", true, 1000);
  expect(isOpen(one)).toBe(true);
  one = hear(one, { kind: "accepted", requestId: "req-1" }, 1010);
  one = hear(one, { kind: "reasoning", text: "hm" }, 1100);
  expect(one.state).toBe("thinking");
  one = hear(one, { kind: "content", text: "\n\nbecause" }, 1600);
  one = hear(one, { kind: "content", text: "\nso" }, 2100);
  one = hear(one, { kind: "usage", promptTokens: 5, cachedTokens: 0, completionTokens: 11 }, 2100);
  one = end(hear(one, { kind: "finish", reason: "stop" }, 2100), "done");
  expect(one).toMatchObject({ reasoning: "hm", answer: "because\nso", requestId: "req-1", finishReason: "stop", state: "done" });
  expect(figuresOf(one)).toEqual({ ttftSeconds: 0.1, thoughtSeconds: 0.5, tokensPerSecond: 10 });
  expect(isOpen(one)).toBe(false);
});

it("the model is told what was answered, without reasoning, and nothing of what failed", () => {
  const answered = end(hear(hear(ask(1, "a?", true, 0), { kind: "reasoning", text: "x" }, 1), { kind: "content", text: "A" }, 1), "done");
  const failed = end(ask(2, "b?", true, 0), new ApiError("overloaded", "busy."));
  const stopped = end(hear(ask(3, "c?", true, 0), { kind: "content", text: "half" }, 1), "stopped");
  expect(messagesFor([answered, failed, stopped], "d?")).toEqual([
    { role: "user", content: "a?" },
    { role: "assistant", content: "A" },
    { role: "user", content: "c?" },
    { role: "assistant", content: "half" },
    { role: "user", content: "d?" },
  ]);
});

it("without a model that chats it says what there is instead", () => {
  const model = (modelName: string, chats: boolean) => ({ modelName, chats, contextTokens: 1, notReady: null });
  expect(whyNoChat([model("a", false), model("b", true)])).toBeNull();
  expect(whyNoChat([model("a", false), model("b", false)])).toBe("a and b can be asked in token ids only, without a tokenizer.");
  expect(whyNoChat([])).toBe("No model is served here yet.");
});
