// A ModelService as operators/api knows it, of what the API server sends.
import { ModelService } from "../api/model-service.ts";
import type { RawModelService } from "./watched.ts";

/** Items of a list come without their kind. */
const identity = { apiVersion: "pelagic.dev/v1alpha1", kind: "ModelService" };

export function parseService(raw: RawModelService) {
  return ModelService.safeParse({ ...raw, ...identity });
}

/** undefined: it cannot be read. */
export function readService(raw: RawModelService): ModelService | undefined {
  return parseService(raw).data;
}
