// The same request as a bare dispatch: prompt tokens in, output tokens back, by the messages of the contract and nothing around them.
import { type Bus, randomId, silentLog } from "../../lib/contracts/bus.ts";
import { DispatchReply } from "../../lib/contracts/messages.ts";
import { decodeDeltas } from "../../lib/contracts/deltas.ts";
import { type Subjects, subjects } from "../../lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../lib/contracts/wire.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import { CliError } from "../cli-error.ts";
import type { Stack } from "../stack/stack.ts";

export interface TokensAnswer {
  sentMs: number;
  endMs: number;
  tokens: number[];
  /** When each token arrived. */
  tokenMs: number[];
}

const replyMs = 10_000;
/** Longer than any measurement: nobody renews it. */
const leaseMs = 600_000;

export class NatsClient {
  private readonly bus: Bus;
  private readonly subjects: Subjects;
  private readonly gatewayId: string;
  private readonly instanceIds: ReadonlyMap<string, string>;

  private constructor(bus: Bus, named: Subjects, gatewayId: string, instanceIds: ReadonlyMap<string, string>) {
    this.bus = bus;
    this.subjects = named;
    this.gatewayId = gatewayId;
    this.instanceIds = instanceIds;
  }

  /** In the gateway's name, beside the gateway. */
  static async connect(stack: Stack): Promise<NatsClient> {
    const { user, password, processId } = stack.credentialsFor("gateway");
    const status = (await (await fetch(`${stack.adminUrl}/status`)).json()) as { workers: { workerId: string; instanceId: string }[] };
    const instanceIds = new Map(status.workers.map(({ workerId, instanceId }) => [workerId, instanceId]));
    const bus = await connectBus({ servers: stack.natsUrl, user, password, name: "bench", log: silentLog });
    return new NatsClient(bus, subjects(stack.service), processId, instanceIds);
  }

  ask(workerId: string, prompt: Uint32Array, seed: number, maxTokens: number, timeoutMs: number): Promise<TokensAnswer> {
    const attemptId = randomId(12);
    const replySubject = this.subjects.deltas(this.gatewayId, attemptId);
    return new Promise((resolve, reject) => {
      const answer: TokensAnswer = { sentMs: performance.now(), endMs: 0, tokens: [], tokenMs: [] };
      const settle = (act: () => void) => {
        clearTimeout(timer);
        subscription.unsubscribe();
        act();
      };
      const fail = (what: string) => settle(() => reject(new CliError(`dispatch to ${workerId}: ${what}`)));
      const timer = setTimeout(() => fail(`no end within ${timeoutMs} ms`), timeoutMs);
      const subscription = this.bus.subscribe(replySubject, (message) => {
        const [part] = decodeDeltas(message.data);
        if (part === undefined) return;
        const { delta, tokens } = part;
        if (delta.from !== answer.tokens.length) return fail(`tokens from ${delta.from} on where ${answer.tokens.length} are here`);
        const now = performance.now();
        for (const token of tokens) {
          answer.tokens.push(token);
          answer.tokenMs.push(now);
        }
        if (delta.end === undefined) return;
        answer.endMs = now;
        this.bus.publish(this.subjects.control(workerId), encodeMessage({ kind: "ack", attemptIds: [attemptId] }));
        settle(() => resolve(answer));
      });
      const dispatch = {
        requestId: attemptId,
        attemptId,
        gatewayId: this.gatewayId,
        instanceId: this.instanceIds.get(workerId),
        replySubject,
        promptLength: prompt.length,
        maxTokens,
        stopTokenIds: [],
        sampling: { temperature: 0, seed: String(seed), choice: 0 },
        cacheSalt: "",
        prefillWorkerId: null,
        leaseMs,
        deadlineMs: timeoutMs,
      };
      this.bus
        .request(this.subjects.dispatch(workerId), encodeMessage(dispatch, prompt), replyMs)
        .then((reply) => {
          const { body } = decodeMessage(DispatchReply, reply);
          if (body.kind !== "accepted") fail(JSON.stringify(body));
        })
        .catch((error: unknown) => fail(String(error)));
    });
  }

  close(): Promise<void> {
    return this.bus.close();
  }
}
