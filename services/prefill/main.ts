// The prefill process: computes prompts' latents and sends them to decode workers.
import { z } from "zod";
import { systemClock } from "../lib/contracts/bus.ts";
import { loadNativeRunner } from "../lib/engine/model-runner.ts";
import { PrefillWorker } from "../lib/engine/prefill-worker.ts";
import { engineConfig, loadOptions, workerFields } from "../lib/engine/worker-config.ts";
import { WorkerCore } from "../lib/engine/worker-core.ts";
import { observePrefill, observeWorker } from "../lib/engine/worker-metrics.ts";
import { startAdminServer } from "../lib/runtime/admin-server.ts";
import { busFields, processFields, readNatsCredentials } from "../lib/runtime/config.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { announce, runProcess } from "../lib/runtime/process.ts";

await runProcess({
  name: "prefill",
  config: z.object({ ...processFields, ...busFields, ...workerFields }),
  async main({ config, log, metrics, onStop }) {
    let core: WorkerCore | undefined;
    const admin = await startAdminServer({
      host: config.metricsHost,
      port: config.metricsPort,
      registry: metrics,
      ready: () => core?.readiness ?? { ready: false, reason: "loading the model" },
      log,
    });
    onStop(() => admin.close());
    announce({ metricsPort: admin.port });

    const connection = { servers: config.natsUrl, ...readNatsCredentials(config.natsCredentialsFile), log };
    const control = await connectBus({ ...connection, name: `${config.workerId} control` });
    onStop(() => control.close());
    const data = await connectBus({ ...connection, name: `${config.workerId} data` });
    onStop(() => data.close());

    const options = await loadOptions(config);
    const runner = await loadNativeRunner(options);
    core = await WorkerCore.start(
      {
        service: config.service,
        workerId: config.workerId,
        role: "prefill",
        modelDir: config.model,
        ...(config.modelName === undefined ? {} : { modelName: config.modelName }),
        kvDtype: config.kvDtype,
        engine: engineConfig(config, options.kvBlocks),
        metricsPort: admin.port,
      },
      runner,
      control,
      systemClock,
      log,
    );
    const started = core;
    onStop(() => started.stop());
    const worker = new PrefillWorker(core, control, data);
    onStop(() => worker.stop());
    observeWorker(core, metrics);
    observePrefill(worker, metrics);
    onStop(async () => {
      started.drain();
      // Transfers that run may finish, within the process's own bound.
      while (worker.activeTransfers > 0) await new Promise((resolve) => setTimeout(resolve, 20));
    });
    core.ready();
  },
});
