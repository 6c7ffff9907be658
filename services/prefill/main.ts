// The prefill process: computes prompts' latents and sends them to decode workers.
import { z } from "zod";
import { RowServer } from "../lib/engine/row-server.ts";
import { workerFields } from "../lib/engine/worker-config.ts";
import { WorkerCore } from "../lib/engine/worker-core.ts";
import { observeRowServer, observeWorker } from "../lib/engine/worker-metrics.ts";
import { busFields, processFields } from "../lib/runtime/config.ts";
import { runProcess } from "../lib/runtime/process.ts";
import { openWorkerPorts } from "../lib/runtime/worker-ports.ts";

await runProcess({
  name: "prefill",
  config: z.object({ ...processFields, ...busFields, ...workerFields }),
  async main(context) {
    const { config, log, metrics, onStop } = context;
    let loaded: WorkerCore | undefined;
    const { control, data, metricsPort, tracer } = await openWorkerPorts(
      context,
      () => loaded?.readiness ?? { ready: false, reason: "loading the model" },
    );
    const core = await WorkerCore.load("prefill", config, metricsPort, control, log);
    loaded = core;
    onStop(() => core.stop());
    const worker = new RowServer(core, control, data, { servesWhileDraining: false, ...(tracer && { tracer }) });
    onStop(() => worker.stop());
    observeWorker(core, metrics);
    observeRowServer(worker, metrics);
    // Transfers that run may finish.
    onStop(() => core.drainUntil(() => worker.activeTransfers === 0, config.drainMs));
    core.ready();
  },
});
