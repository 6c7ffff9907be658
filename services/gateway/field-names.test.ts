import { expect, it } from "vitest";
import { PelagicError } from "../lib/contracts/errors.ts";
import { inEndpointsWords } from "./field-names.ts";

it("names the field that the client wrote, whatever a schema calls its properties", () => {
  const param = "response_format.json_schema.schema.properties.$&.if";
  const error = inEndpointsWords(new PelagicError("invalid_request", `${param}: not supported`, { param }), "responses");
  expect(error).toMatchObject({
    param: "text.format.schema.properties.$&.if",
    message: "text.format.schema.properties.$&.if: not supported",
  });
});
