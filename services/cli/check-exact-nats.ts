// check-exact's way over real processes: NATS, prefill and decode workers, and this process in the gateway's place. Logits digests stay
// inside: the HTTP API does not carry them.
import { isDeepStrictEqual } from "node:util";
import type { ExpertPlan } from "../lib/contracts/expert-placement.ts";
import type { KvDtype } from "../lib/contracts/frame.ts";
import type { LoadOptions } from "../lib/engine/native.ts";
import type { ExactAnswer, ExactRequest } from "./check-exact.ts";
import { startStack } from "./stack/stack.ts";
import { connectStackClient } from "./stack-client.ts";

const deadlineMs = 120_000;
const maxRounds = 20;

export interface Pools {
  prefill: number;
  decode: number;
  /** The decode workers share the model's experts, by this plan. */
  planFile?: string;
  /** The last decode worker gets no requests, and is killed in the middle of the answers. */
  killLast?: boolean;
  /** Plans that the ranks are told to go to, in turn, while they answer. Each of them must be in force at least once. */
  moves?: ExpertPlan[];
}

/** All requests at once, spread over the workers. Every prompt that is long enough is prefilled by a prefill worker, and that is checked. */
export async function answerOverNats(
  dir: string,
  compute: Pick<LoadOptions, "backend" | "weightDtype">,
  kvDtype: KvDtype,
  { prefill, decode, planFile, killLast, moves = [] }: Pools,
  requests: ExactRequest[],
): Promise<Map<string, ExactAnswer>> {
  const localPrefillTokens = 64;
  const stack = await startStack({
    model: dir,
    ...compute,
    prefill,
    ...(planFile === undefined ? { decode } : { decodeRanks: decode }),
    kvDtype,
    gateways: 0,
    env: {
      PELAGIC_LOCAL_PREFILL_TOKENS: String(localPrefillTokens),
      ...(planFile === undefined ? {} : { PELAGIC_EXPERT_PLAN: planFile }),
    },
  });
  const last = stack.processes.find(({ name }) => name === `decode-${decode - 1}`);
  const asked = killLast ? decode - 1 : decode;
  let killed = false;
  try {
    const client = await connectStackClient(stack, "check-exact");
    let moved = 0;
    let answered = false;
    const moving = (async () => {
      // A plan is taken once the one before is in force.
      while (!answered && moves.length > 0) {
        if (await client.placeExperts(moves[moved % moves.length] as ExpertPlan)) moved++;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    })();
    const answerAll = (round: number) =>
      Promise.all(
        requests.map(async (request, i) => {
          const generation = client.start(
            {
              requestId: request.id,
              prompt: request.tokens,
              maxTokens: request.maxTokens,
              stopTokenIds: [],
              sampling: { temperature: request.temperature, seed: String(request.seed), choice: 0 },
              // One salt each: a request must not profit from another's prefill.
              cacheSalt: `${request.id}-${round}`,
              deadlineMs,
              digests: true,
            },
            `decode-${i % asked}`,
            `prefill-${Math.floor(i / asked) % prefill}`,
          );
          const answer: ExactAnswer = { from: 0, digests: [], tokens: [] };
          for await (const batch of generation) {
            if (killLast && !killed) {
              killed = true;
              last?.kill();
            }
            answer.tokens.push(...batch.tokens);
            answer.digests.push(...batch.digests);
          }
          const remote = request.promptLength - 1 >= localPrefillTokens;
          if ((generation.prefilledBy !== undefined) !== remote) {
            throw new Error(
              `${request.id}: prefilled by ${generation.prefilledBy ?? "decode"}, a prefill worker was ${remote ? "" : "not "}expected`,
            );
          }
          return [request.id, answer] as const;
        }),
      );
    const rounds: Awaited<ReturnType<typeof answerAll>>[] = [];
    try {
      // Where answers are quicker than moves they are asked for again.
      do rounds.push(await answerAll(rounds.length));
      while (moves.length > 0 && moved <= moves.length && rounds.length < maxRounds);
    } finally {
      answered = true;
    }
    await moving;
    if (moved <= moves.length && moves.length > 0)
      throw new Error(`experts were moved ${moved} times while the ranks answered ${rounds.length} times: too seldom`);
    await client.close();
    const [first = [], ...others] = rounds;
    for (const [i, [id, answer]] of first.entries()) {
      if (others.some((round) => !isDeepStrictEqual(round[i]?.[1], answer))) throw new Error(`${id}: answered otherwise when asked again`);
    }
    return new Map(first);
  } finally {
    await stack.stop();
  }
}
