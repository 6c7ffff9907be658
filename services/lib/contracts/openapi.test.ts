import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { apiVersion, openApiDocument } from "./openapi.ts";

it("the API's version is the package's", () => {
  expect(apiVersion).toBe((JSON.parse(readFileSync("package.json", "utf8")) as { version: string }).version);
});

it("every reference of the OpenAPI document has its schema", () => {
  const text = JSON.stringify(openApiDocument());
  const { components } = JSON.parse(text) as { components: { schemas: Record<string, object> } };
  for (const [, name] of text.matchAll(/"#\/components\/schemas\/([^"]+)"/g)) expect(components.schemas).toHaveProperty(name as string);
});

it("declares what a model that is still to be learned, a slow tokenizer and an outage are answered with", () => {
  const { paths } = openApiDocument() as { paths: Record<string, Record<string, { responses: Record<string, { description: string }> }>> };
  const told = (path: string, method: string, status: number) => paths[path]?.[method]?.responses[status]?.description ?? "";
  for (const [path, method] of [
    ["/v1/chat/completions", "post"],
    ["/tokenize", "post"],
    ["/v1/messages/count_tokens", "post"],
    ["/v1/models/{id}", "get"],
  ] as const)
    expect(told(path, method, 503), path).toContain("no_workers");
  expect(told("/tokenize", "post", 504)).toContain("deadline_exceeded");
  expect(told("/ready", "get", 503)).toContain("bus_unavailable");
});
