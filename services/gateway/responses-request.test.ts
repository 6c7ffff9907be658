import { expect, it } from "vitest";
import { ResponsesRequest } from "../lib/contracts/http-responses.ts";
import { chatOfResponses } from "./responses-request.ts";

const chatOf = (input: unknown) => chatOfResponses(ResponsesRequest.parse({ model: "m", input }));
const call = { type: "function_call", call_id: "c", name: "add", arguments: "{}" };
const output = { type: "function_call_output", call_id: "c", output: "3" };

it("leaves out reasoning that is only referred to", () => {
  const { messages } = chatOf([{ role: "user", content: "x" }, { type: "item_reference", id: "rs_1" }, call, output]);
  expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "tool"]);
  const tail = chatOf([
    { role: "user", content: "x" },
    { type: "item_reference", id: "rs_1" },
  ]);
  expect(tail.messages.map(({ role }) => role)).toEqual(["user"]);
});

it("says what to set where an answer is only referred to", () => {
  const asked = () =>
    chatOf([
      { role: "user", content: "x" },
      { type: "item_reference", id: "msg_1" },
      { role: "user", content: "y" },
    ]);
  expect(asked).toThrow(/^input\[1\]: item_reference to "msg_1": .*store: false/);
});

it("keeps no responses", () => {
  expect(ResponsesRequest.safeParse({ model: "m", input: "x", store: false }).success).toBe(true);
  const refused = ResponsesRequest.safeParse({ model: "m", input: "x", store: true });
  expect(refused.error?.issues[0]).toMatchObject({ path: ["store"], message: expect.stringContaining("set it to false") as string });
});
