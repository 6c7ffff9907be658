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
