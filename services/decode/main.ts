// The decode process: owns requests from dispatch to last token, receives prompts' latents, samples.
import { setImmediate } from "node:timers/promises";
import { z } from "zod";
import { DecodeWorker } from "../lib/engine/decode-worker.ts";
import { loadWindow } from "../lib/engine/load-publisher.ts";
import { RowServer } from "../lib/engine/row-server.ts";
import { loadNativeRunner } from "../lib/engine/model-runner.ts";
import { loadRankedRunner } from "../lib/engine/ranks/load.ts";
import { observeRanks } from "../lib/engine/ranks/rank-metrics.ts";
import type { Planner } from "../lib/engine/ranks/rebalancer.ts";
import { RankedRunner } from "../lib/engine/ranks/ranked-runner.ts";
import { decodeFields, rankFields, workerFields } from "../lib/engine/worker-config.ts";
import { WorkerCore } from "../lib/engine/worker-core.ts";
import { observeDecode, observeRowServer, observeWorker } from "../lib/engine/worker-metrics.ts";
import { GrammarConstraint } from "../lib/grammar/constraint.ts";
import { GrammarThreads } from "../lib/grammar/grammar-threads.ts";
import { busFields, processFields } from "../lib/runtime/config.ts";
import { nextPlan } from "../placement/next-plan.ts";
import { ourSettings } from "../placement/settings.ts";
import { type RankStatus, rankStatusPath } from "../lib/contracts/rank-status.ts";
import { runProcess } from "../lib/runtime/process.ts";
import { openWorkerPorts } from "../lib/runtime/worker-ports.ts";

/** Live intervals are far shorter than those of the simulation. */
const planSettings = { ...ourSettings, halfLife: loadWindow.halfLife };

await runProcess({
  name: "decode",
  config: z.object({ ...processFields, ...busFields, ...workerFields, ...decodeFields, ...rankFields }),
  async main(context) {
    const { config, log, metrics, onStop } = context;
    let loaded: WorkerCore | undefined;
    const planner: Planner = (current, state) => nextPlan(current, state, { ...planSettings, policy: config.expertPolicy }, setImmediate);
    let rankStatus: (() => RankStatus) | undefined;
    const { control, data, metricsPort, tracer } = await openWorkerPorts(
      context,
      () => loaded?.readiness ?? { ready: false, reason: "loading the model" },
      { [rankStatusPath]: () => rankStatus?.() ?? null },
    );
    const core = await WorkerCore.load("decode", config, metricsPort, control, log, (options) =>
      config.rankCount === 1
        ? loadNativeRunner(options)
        : loadRankedRunner(options, config, control, log, planner, (status) => (rankStatus = status)),
    );
    loaded = core;
    const { vocabSize } = core.runner.info;
    const grammars = new GrammarThreads({
      workerUrl: new URL("../lib/grammar/grammar-thread.js", import.meta.url),
      modelDir: config.model,
      vocabularySize: vocabSize,
    });
    // After the requests that wait for them have been let go to other workers.
    onStop(() => grammars.close());
    onStop(() => core.stop());
    const worker = new DecodeWorker(core, control, data, {
      constraints: (spec) => new GrammarConstraint(grammars, vocabSize, spec),
      ...(tracer && { tracer }),
      localPrefillTokens: config.localPrefillTokens,
      pausedBecause: () => (core.runner instanceof RankedRunner ? core.runner.pausedBecause : undefined),
      receiveBudgetBytes: config.receiveBudgetMib * 1024 * 1024,
    });
    onStop(() => worker.stop());
    // For peers that take over what runs here.
    const rows = new RowServer(core, control, data, { servesWhileDraining: true, ...(tracer && { tracer }) });
    onStop(() => rows.stop());
    observeWorker(core, metrics);
    observeDecode(worker, core, metrics);
    observeRowServer(rows, metrics);
    if (core.runner instanceof RankedRunner) observeRanks(core.runner, metrics);
    // Gateways move what runs, or let it finish; peers fetch its blocks.
    onStop(() => core.drainUntil(() => worker.drained && rows.activeTransfers === 0, config.drainMs));
    core.ready();
  },
});
