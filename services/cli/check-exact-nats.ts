// check-exact's way over real processes: NATS, prefill and decode workers, and this process in the gateway's place. Logits digests stay
// inside: the HTTP API does not carry them.
import type { KvDtype, LoadOptions } from "../lib/engine/native.ts";
import type { ExactAnswer, ExactRequest } from "./check-exact.ts";
import { startStack } from "./stack/stack.ts";
import { connectStackClient } from "./stack-client.ts";

const deadlineMs = 120_000;

/** All requests at once, spread over the workers. Every prompt that is long enough is prefilled by a prefill worker, and that is checked. */
export async function answerOverNats(
  dir: string,
  compute: Pick<LoadOptions, "backend" | "weightDtype">,
  kvDtype: KvDtype,
  prefill: number,
  decode: number,
  requests: ExactRequest[],
): Promise<Map<string, ExactAnswer>> {
  const localPrefillTokens = 64;
  const stack = await startStack({
    model: dir,
    ...compute,
    prefill,
    decode,
    kvDtype,
    gateways: 0,
    env: { PELAGIC_LOCAL_PREFILL_TOKENS: String(localPrefillTokens) },
  });
  try {
    const client = await connectStackClient(stack, "check-exact");
    const answers = await Promise.all(
      requests.map(async (request, i) => {
        const generation = client.start(
          {
            requestId: request.id,
            prompt: request.tokens,
            maxTokens: request.maxTokens,
            stopTokenIds: [],
            sampling: { temperature: request.temperature, seed: String(request.seed), choice: 0 },
            // One salt each: a request must not profit from another's prefill.
            cacheSalt: request.id,
            deadlineMs,
            digests: true,
          },
          `decode-${i % decode}`,
          `prefill-${Math.floor(i / decode) % prefill}`,
        );
        const answer: ExactAnswer = { from: 0, digests: [], tokens: [] };
        for await (const batch of generation) {
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
    await client.close();
    return new Map(answers);
  } finally {
    await stack.stop();
  }
}
