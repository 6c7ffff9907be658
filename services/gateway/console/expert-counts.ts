// Asks workers how many tokens each expert got. However many pages look, a worker is asked once a second at most of each span, and once at a time.
import { type Bus, BusError } from "../../lib/contracts/bus.ts";
import type { ConsoleExperts } from "../../lib/contracts/console.ts";
import { PelagicError } from "../../lib/contracts/errors.ts";
import { ExpertCounts, type ExpertSpan } from "../../lib/contracts/messages.ts";
import type { Subjects } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../lib/contracts/wire.ts";

const replyMs = 2_000;
const freshMs = 1_000;
const twoTo32 = 2 ** 32;

export class ExpertCountsReader {
  private readonly bus: Bus;
  private readonly subjects: Subjects;
  private readonly nowMs: () => number;
  private readonly answers = new Map<string, { atMs: number; answer: Promise<ConsoleExperts> }>();

  constructor(bus: Bus, subjects: Subjects, nowMs: () => number) {
    this.bus = bus;
    this.subjects = subjects;
    this.nowMs = nowMs;
  }

  /** Of a worker that the directory knows. */
  read(workerId: string, span: ExpertSpan): Promise<ConsoleExperts> {
    const nowMs = this.nowMs();
    const key = `${span} ${workerId}`;
    for (const [id, { atMs }] of this.answers) if (nowMs - atMs > freshMs + replyMs) this.answers.delete(id);
    const known = this.answers.get(key);
    if (known !== undefined && nowMs - known.atMs < freshMs) return known.answer;
    const answer = this.ask(workerId, span);
    this.answers.set(key, { atMs: nowMs, answer });
    return answer;
  }

  private async ask(workerId: string, span: ExpertSpan): Promise<ConsoleExperts> {
    let reply: Uint8Array;
    try {
      reply = await this.bus.request(this.subjects.control(workerId), encodeMessage({ kind: "expert-counts", span }), replyMs);
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      if (error.code === "disconnected") throw new PelagicError("bus_unavailable", "not connected to NATS");
      throw new PelagicError("worker_lost", `${workerId} does not say what its experts got`);
    }
    const { body, tokens } = decodeMessage(ExpertCounts, reply);
    return {
      workerId: body.workerId,
      instanceId: body.instanceId,
      firstLayer: body.firstLayer,
      expertsPerToken: body.expertsPerToken,
      span: body.span ?? "start",
      tokens: countsByLayer(body, tokens),
      balancedness: body.balancedness ?? null,
    };
  }
}

/** Null where there are none, or not as many as the message says. */
export function countsByLayer({ moeLayers, logicalExperts }: ExpertCounts, words: Uint32Array): number[][] | null {
  if (words.length === 0 || words.length !== 2 * moeLayers * logicalExperts) return null;
  return Array.from({ length: moeLayers }, (_, layer) =>
    Array.from({ length: logicalExperts }, (_, expert) => {
      const at = 2 * (layer * logicalExperts + expert);
      return (words[at] as number) + (words[at + 1] as number) * twoTo32;
    }),
  );
}
