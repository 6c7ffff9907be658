// Two thousand streams at once through the real gateway, before a real nats-server and a worker whose model computes nothing; some of the
// readers stall. How evenly the tokens come is for `./pelagic bench gateway --streams 2000` to say.
import { describe, expect, it } from "vitest";
import { runStreams } from "../../services/cli/bench-gateway/streams.ts";
import { withStubStack } from "../../services/cli/bench-gateway/surroundings.ts";
import { Workload } from "../../services/cli/bench-gateway/workload.ts";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";

const streams = 1_900;
const stalled = 100;
const resumed = 10;
const stepMs = 500;
const answerTokens = 64;
/** What 2,000 streams may add to the gateway: their prompts, connections and tokens, and what V8 has not yet collected. */
const mibOfStream = 0.25;
const mib = 1024 * 1024;

describe("two thousand streams at once", () => {
  it("all end whole beside readers that stall, which cost bounded memory and then their streams", async () => {
    const model = embeddedModel();
    const workload = new Workload(model, 500, answerTokens);
    // Time to tokenize all prompts on a machine that others use, and a stall bound that passes while the others still stream.
    const settings = { PELAGIC_STALL_MS: "5000", PELAGIC_TOKENIZER_JOB_MS: "60000" };
    const result = await withStubStack(model, stepMs, settings, (all) =>
      runStreams(all, workload, { streams, stalled, resumed, resumeAfterMs: 2_000, stepMs }),
    );
    expect(result.wrong).toEqual([]);
    expect(result.firstMs.length).toBe(streams);
    expect(result.stalledEnds).toEqual({ complete: resumed, ended: stalled - resumed });
    expect(result.gateway.grownBytes / mib).toBeLessThan((streams + stalled) * mibOfStream);
  }, 240_000);
});
