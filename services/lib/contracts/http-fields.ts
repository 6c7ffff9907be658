// What the bodies of all endpoints are made of: limits, texts, and the three kinds of field (http.ts).
import { z } from "zod";

export const httpLimits = {
  messages: 10_000,
  contentParts: 10_000,
  textCharacters: 16_000_000,
  promptTokens: 4_000_000,
  stops: 16,
  stopCharacters: 1_024,
  stopTokenIds: 256,
  logitBias: 1_024,
  choices: 1_024,
  /** Answers to one request, of all its prompts. */
  answers: 128,
  tools: 128,
  toolNameCharacters: 128,
  templateKwargs: 32,
  bannedWords: 256,
  allowedTokenIds: 10_000,
  isolationCharacters: 512,
  tokenId: 2 ** 31 - 1,
} as const;

export const text = z.string().max(httpLimits.textCharacters);
/** A server that knows its vocabulary says in its document how many there are: openapi.ts knows the field by this title. */
export const tokenIdTitle = "token id";
export const tokenId = z.number().int().min(0).max(httpLimits.tokenId).meta({ title: tokenIdTitle });

/** A field whose effect we do not have: passes only as null or as a value that asks for nothing. */
export function refused<S extends z.ZodType>(harmless: S): z.ZodOptional<z.ZodNullable<S>> {
  return harmless.nullish();
}
/** The field's name goes before. `what`: where it is not the field as a whole. */
export const unsupported = (what?: string) => ({
  error: `${what === undefined ? "" : `${what} is `}not supported by this server: leave it out`,
});
export const instead = (other: string) => ({ error: `not supported by this server: use ${other}` });
export const replacedBy = (other: string) => z.null(instead(other)).optional();
export const noneOf = () => refused(z.array(z.unknown(), unsupported()).max(0, unsupported()));
export const nothing = () => z.null(unsupported()).optional();
export const only = <const V extends string | number | boolean>(value: V) =>
  refused(z.literal(value, { error: `only ${JSON.stringify(value)} is supported by this server: leave it out` }));

const wellFormed = (value: string) => !/[\uD800-\uDBFF](?![\uDC00-\uDFFF])|(?<![\uD800-\uDBFF])[\uDC00-\uDFFF]/.test(value);
export const stopString = z
  .string()
  .min(1, { error: "a stop string cannot be empty" })
  .max(httpLimits.stopCharacters)
  .refine(wellFormed, { error: "a stop string must be valid Unicode" });

export const schema = z.union([z.boolean(), z.record(z.string(), z.unknown())], { error: "a JSON schema: an object or a boolean" });
export const isolation = z.string().max(httpLimits.isolationCharacters);
export const toolName = z
  .string()
  .regex(/^[\w.:/-]+$/, { error: "letters, digits and _ . : / - only" })
  .max(httpLimits.toolNameCharacters);
/** What `refine` demands beside it, for the document: exactly one of these fields has a value. */
export const exactlyOne = (...names: string[]) => ({
  oneOf: names.map((name) => ({ required: [name], properties: { [name]: { not: { enum: [null, false] } } } })),
});
/** Accepted without effect, and not kept. */
export const anything = z
  .unknown()
  .transform(() => undefined)
  .optional();
