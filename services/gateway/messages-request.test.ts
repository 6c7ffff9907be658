import { expect, test } from "vitest";
import { CountTokensRequest, MessagesRequest } from "../lib/contracts/http-messages.ts";
import { chatOfMessages, conversationOf } from "./messages-request.ts";

const body = (...messages: object[]) => ({ model: "m", max_tokens: 5, system: "Be brief.", messages });
const asked = { role: "user", content: "What is 127 + 536?" };

test("the assistant's last words are where the answer goes on", () => {
  const chat = chatOfMessages(MessagesRequest.parse(body(asked, { role: "assistant", content: "It is" })));
  expect(chat.messages.at(-1)).toEqual({ role: "assistant", content: "It is", prefix: true });
  const counted = conversationOf(CountTokensRequest.parse(body(asked, { role: "assistant", content: [{ type: "text", text: "It is" }] })));
  expect(counted.messages).toEqual(chat.messages);
});

test("earlier ones, and calls that wait for their results, are turns", () => {
  const call = { role: "assistant", content: [{ type: "tool_use", id: "c1", name: "add", input: {} }] };
  for (const messages of [
    [asked, { role: "assistant", content: "663" }, asked],
    [asked, call],
  ]) {
    const chat = chatOfMessages(MessagesRequest.parse(body(...messages)));
    expect(chat.messages.filter((message) => "prefix" in message)).toEqual([]);
  }
});

test("a tool that failed says so", () => {
  const result = (more: object) => ({
    role: "user",
    content: [{ type: "tool_result", tool_use_id: "c1", content: "no such file", ...more }],
  });
  const contents = [{ is_error: true }, { is_error: false }, {}].map(
    (more) => chatOfMessages(MessagesRequest.parse(body(result(more)))).messages.at(-1)?.content,
  );
  expect(contents).toEqual(["Error: no such file", "no such file", "no such file"]);
});
