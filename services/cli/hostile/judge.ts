// What is wrong with an answer, whatever was asked. Pure.
import { z } from "zod";
import { errorCatalogue } from "../../lib/contracts/errors.ts";
import type { Reply } from "./client.ts";
import type { Operation, Schema } from "./schema.ts";

/** Events that end a stream whose events have names. */
const lastEvents = new Set(["message_stop", "response.completed", "response.incomplete"]);
const mostMessageCharacters = 2_000;
/** What is refused for what its fields hold. */
const forAField = new Set([400, 404]);

export class Judge {
  private readonly answers = new Map<Operation, z.ZodType>();
  private readonly refusals = new Map<Operation, Map<number, z.ZodType>>();

  constructor(operations: readonly Operation[]) {
    for (const operation of operations) {
      if (operation.answer !== null) this.answers.set(operation, zodOf(operation.answer));
      this.refusals.set(operation, new Map([...operation.refusals].map(([status, schema]) => [status, zodOf(schema)])));
    }
  }

  /** `known`: properties that a body of this operation can have; null: the request had no field at fault. */
  verdict(operation: Operation, reply: Reply, known: ReadonlySet<string> | null): string | null {
    const { status, headers, text } = reply;
    if (status >= 500 && status !== 503) return `${status}: ${text.slice(0, 300)}`;
    if (status !== 200) {
      const body = this.refusals.get(operation)?.get(status);
      if (body === undefined) return `${status}, which the document does not know: ${text.slice(0, 300)}`;
      const json = jsonOf(text);
      if (!body.safeParse(json).success) return `${status} without the error envelope: ${text.slice(0, 300)}`;
      return refusalFault(reply, (json as { error: ErrorFields }).error, known);
    }
    if (String(headers["content-type"]).startsWith("text/event-stream")) return streamFault(text);
    const parsed = this.answers.get(operation)?.safeParse(jsonOf(text));
    if (parsed === undefined || parsed.success) return null;
    return `an answer that the document does not describe: ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}`;
  }
}

function zodOf(schema: Schema): z.ZodType {
  return z.fromJSONSchema(schema as Parameters<typeof z.fromJSONSchema>[0]);
}

/** Of every API's error; which of them have `param` and `code`, its own envelope says. */
interface ErrorFields {
  message: string;
  type: string;
  param?: string | null;
  code?: string;
}

function refusalFault(
  { status, headers }: Reply,
  { message, type, param, code }: ErrorFields,
  known: ReadonlySet<string> | null,
): string | null {
  if ((status === 429 || status === 503) && !(Number(headers["retry-after"]) > 0)) return `${status} without retry-after`;
  if (code !== undefined) {
    const meant = errorCatalogue[code as keyof typeof errorCatalogue] as { status: number; type: string } | undefined;
    if (meant?.status !== status || meant.type !== type) return `${status} with the code ${code} and the type ${type}`;
  }
  if (message.length > mostMessageCharacters) return `a message of ${message.length} characters: ${message.slice(0, 200)}`;
  if (known === null || !forAField.has(status)) return null;
  // Where an envelope has no place for it, the message begins with it.
  const root = /^[\w-]+/.exec((param === undefined ? message : param) ?? "")?.[0];
  if (root === undefined) return `${status} names no field: ${message.slice(0, 300)}`;
  return known.has(root) ? null : `${status} names ${param ?? root}, which is no field of the body: ${message.slice(0, 300)}`;
}

interface Chunk {
  error?: { code?: string; message?: string } | null;
  choices?: { index: number; finish_reason?: string | null }[];
}

export function streamFault(text: string): string | null {
  if (!text.endsWith("\n\n")) return `the stream ends in the middle of an event: ${JSON.stringify(text.slice(-100))}`;
  let last: { name: string | null; data: string } | undefined;
  const finished = new Map<number, number>();
  for (const block of text.slice(0, -2).split("\n\n")) {
    const lines = block.split("\n").filter((line) => !line.startsWith(":"));
    if (lines.length === 0) continue;
    const field = (name: string) =>
      lines
        .filter((line) => line.startsWith(`${name}: `))
        .map((line) => line.slice(name.length + 2))
        .join("\n");
    last = { name: field("event") || null, data: field("data") };
    if (last.data === "[DONE]") continue;
    const chunk = jsonOf(last.data) as Chunk | undefined;
    if (chunk === undefined) return `an event that is no JSON: ${block.slice(0, 200)}`;
    if (chunk.error) return `the stream ends with ${chunk.error.code}: ${chunk.error.message?.slice(0, 300)}`;
    for (const { index, finish_reason: reason } of chunk.choices ?? [])
      finished.set(index, (finished.get(index) ?? 0) + (reason === null || reason === undefined ? 0 : 1));
  }
  if (last === undefined) return "a stream without events";
  const ended = last.name === null ? last.data === "[DONE]" : lastEvents.has(last.name);
  if (!ended) return `the stream ends with ${last.name ?? ""} ${last.data.slice(0, 200)}`;
  const open = [...finished].find(([, ends]) => ends !== 1);
  return open === undefined ? null : `answer ${open[0]} of the stream ended ${open[1]} times`;
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
