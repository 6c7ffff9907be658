// The ways that one request can take, all asked alike and each answer looked at: it is the whole right one, or the bench ends.
import { CliError } from "../cli-error.ts";
import { askHttp, type HttpTarget } from "./http-client.ts";
import type { NatsClient } from "./nats-client.ts";
import { readAnswer } from "./received.ts";
import type { Workload } from "./workload.ts";

export interface Timed {
  firstMs: number;
  totalMs: number;
  /** Pieces of text that the reader got: several tokens may share one. */
  pieces: number;
}

export interface Way {
  name: string;
  ask(): Promise<Timed>;
}

const timeoutMs = 60_000;

export function httpWay(name: string, target: HttpTarget, workload: Workload): Way {
  return {
    name,
    ask: async () => {
      const { seed, body } = workload.next();
      const raw = await askHttp(target, body, timeoutMs);
      const { text, finishReason, pieceMs, done } = readAnswer(raw.body, raw.arrivals);
      if (!done || finishReason !== "length" || !workload.isAnswer(seed, text))
        throw new CliError(`${name}: a wrong answer: ${JSON.stringify(text)}`);
      return { firstMs: (pieceMs[0] as number) - raw.sentMs, totalMs: raw.endMs - raw.sentMs, pieces: pieceMs.length };
    },
  };
}

export function natsWay(name: string, client: NatsClient, workerId: string, workload: Workload): Way {
  return {
    name,
    ask: async () => {
      const { seed, prompt } = workload.nextTokens();
      const answer = await client.ask(workerId, prompt, seed, workload.answerTokens, timeoutMs);
      if (!workload.areAnswer(seed, answer.tokens)) throw new CliError(`${name}: a wrong answer`);
      return {
        firstMs: (answer.tokenMs[0] as number) - answer.sentMs,
        totalMs: answer.endMs - answer.sentMs,
        pieces: new Set(answer.tokenMs).size,
      };
    },
  };
}
