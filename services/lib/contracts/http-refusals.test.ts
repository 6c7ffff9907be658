// What a client is told of a body: the field, once, what is wrong with it and what to do.
import { describe, expect, it } from "vitest";
import type { z } from "zod";
import { ChatCompletionRequest, CompletionRequest, firstIssue } from "./http.ts";
import { MessagesRequest } from "./http-messages.ts";
import { ResponsesRequest } from "./http-responses.ts";

const bodies = {
  chat: [ChatCompletionRequest, { model: "m", messages: [{ role: "user", content: "x" }] }],
  completions: [CompletionRequest, { model: "m", prompt: "x" }],
  responses: [ResponsesRequest, { model: "m", input: "x" }],
  messages: [MessagesRequest, { model: "m", max_tokens: 1, messages: [{ role: "user", content: "x" }] }],
} as const satisfies Record<string, readonly [z.ZodObject, object]>;

function told(endpoint: keyof typeof bodies, change: object): { param: string; message: string } {
  const [schema, body] = bodies[endpoint];
  const parsed = schema.safeParse({ ...body, ...change });
  if (parsed.success) throw new Error("taken");
  return firstIssue(parsed.error);
}

describe.each(Object.keys(bodies) as (keyof typeof bodies)[])("%s", (endpoint) => {
  const [schema, body] = bodies[endpoint];

  it("names a field that cannot be honoured once, and says what to do", () => {
    const wrong = ["no such value", ["x"], { x: 1 }, true, 7];
    let refused = 0;
    for (const field of Object.keys(schema.shape)) {
      for (const value of wrong) {
        const parsed = schema.safeParse({ ...body, [field]: value });
        if (parsed.success) continue;
        const { param, message } = firstIssue(parsed.error);
        expect(param.startsWith(field), `${field}: ${param}`).toBe(true);
        expect(message.startsWith(`${param}: `), message).toBe(true);
        const rest = message.slice(param.length + 2);
        expect(rest.startsWith(`${field}`), message).toBe(false);
        if (!message.includes("by this server")) continue;
        refused++;
        expect(rest).toMatch(/by this server: (leave it out|use [\w.]+)$/);
      }
    }
    expect(refused).toBeGreaterThan(endpoint === "messages" ? 5 : 9);
  });

  it("says what is missing", () => {
    for (const field of Object.keys(body).filter((name) => name !== "input" && name !== "prompt")) {
      const { param, message } = told(endpoint, { [field]: undefined });
      expect({ param, message }).toEqual({
        param: field,
        message: expect.stringMatching(new RegExp(`^${field}: missing: \\w+$`)) as string,
      });
    }
  });
});

it("says what to set where conversations are meant to be kept", () => {
  expect(told("responses", { store: true }).message).toMatch(/^store: this server keeps no responses: set it to false/);
  expect(told("chat", { modalities: ["audio"] }).message).toBe(
    "modalities[0]: a modality other than text is not supported by this server: leave it out",
  );
});
