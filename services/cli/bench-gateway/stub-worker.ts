// A decode worker for benchmarks: the product's own engine and protocol on a real bus, over a model that computes nothing.
import { z } from "zod";
import { systemClock } from "../../lib/contracts/bus.ts";
import { DecodeWorker } from "../../lib/engine/decode-worker.ts";
import { decodeFields, workerFields } from "../../lib/engine/worker-config.ts";
import { WorkerCore } from "../../lib/engine/worker-core.ts";
import { loadModelFolder } from "../../lib/model/folder.ts";
import { TokenTable } from "../../lib/model/token-table.ts";
import { busFields, processFields } from "../../lib/runtime/config.ts";
import { runProcess } from "../../lib/runtime/process.ts";
import { openWorkerPorts } from "../../lib/runtime/worker-ports.ts";
import { plainTokens } from "./answer.ts";
import { StepClock } from "./step-clock.ts";
import { StubRunner } from "./stub-runner.ts";

/** More than any bench asks for: what is measured is the way to the worker. */
const engine = {
  kvBlocks: 131_072,
  tokenBudget: 1 << 22,
  chunkTokens: 1 << 20,
  chunkAlignTokens: 64,
  maxSequences: 4_096,
  maxWaiting: 4_096,
} as const;
const maxPositions = 65_536;
/** Of no model: such a worker has no peers that could move anything to it. */
const identity = { modelDigest: "0".repeat(64), numericsId: "0".repeat(64), kvDtype: "bfloat16" } as const;

await runProcess({
  name: "stub-decode",
  config: z.object({ ...processFields, ...busFields, ...workerFields, ...decodeFields, stubStepMs: z.coerce.number().nonnegative() }),
  async main(context) {
    const { config, log, onStop } = context;
    let started: WorkerCore | undefined;
    const { control, data, metricsPort } = await openWorkerPorts(context, () => started?.readiness ?? { ready: false, reason: "starting" });
    const folder = loadModelFolder(config.model);
    if (folder.tokenizer === null) throw new Error(`${config.model} has no tokenizer.json`);
    const plain = plainTokens(new TokenTable(folder.tokenizer.json), folder.vocabularySize);
    const runner = new StubRunner(plain, folder.vocabularySize, maxPositions, new StepClock(config.stubStepMs));
    const { workerId, service, model: modelDir, modelName, kvDtype } = config;
    const core = new WorkerCore(
      { service, workerId, role: "decode", modelDir, ...(modelName && { modelName }), kvDtype, engine, metricsPort },
      runner,
      identity,
      control,
      systemClock,
      log,
    );
    started = core;
    onStop(() => core.stop());
    const worker = new DecodeWorker(core, control, data, {
      localPrefillTokens: config.localPrefillTokens,
      receiveBudgetBytes: config.receiveBudgetMib * 1024 * 1024,
    });
    onStop(() => worker.stop());
    core.ready();
  },
});
