// Asks workers how many tokens each expert got. However many pages look, a worker is asked once a second at most of each span, and once at a time.
import { type Bus, BusError } from "../../lib/contracts/bus.ts";
import type { ConsoleExperts } from "../../lib/contracts/console.ts";
import { countsByLayer } from "../../lib/contracts/counts-by-layer.ts";
import { PelagicError } from "../../lib/contracts/errors.ts";
import { ExpertCounts, type ExpertSpan } from "../../lib/contracts/messages.ts";
import type { Subjects } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../lib/contracts/wire.ts";

const replyMs = 2_000;
const freshMs = 1_000;

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
