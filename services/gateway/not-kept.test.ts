import { expect, it } from "vitest";
import { notKeptHeader } from "./not-kept.ts";

it("is a header in the client's words, whatever a schema calls its properties", () => {
  const told = ["tools[0].function.parameters.properties.größe: multipleOf", "response_format.json_schema.schema: not"];
  expect(notKeptHeader(told, "chat")).toBe(
    "tools[0].function.parameters.properties.gr\\u00f6\\u00dfe: multipleOf; response_format.json_schema.schema: not",
  );
  expect(notKeptHeader(["tools[0].function.parameters.properties.a: not"], "messages")).toBe("tools[0].input_schema.properties.a: not");
});

it("is bounded", () => {
  const many = Array.from({ length: 200 }, (_, i) => `tools[${i}].function.parameters: uniqueItems`);
  const header = notKeptHeader(many, "chat");
  expect(header.length).toBeLessThan(1_100);
  const told = header.split("; ");
  expect(told.at(-1)).toBe(`and ${200 - (told.length - 1)} more`);
  expect(notKeptHeader(["x".repeat(5_000)], "chat")).toBe("1 more");
});
