// The decode process: owns requests from dispatch to last token, receives prompts' latents, samples.
import { z } from "zod";
import { systemClock } from "../lib/contracts/bus.ts";
import { DecodeWorker } from "../lib/engine/decode-worker.ts";
import { loadNativeRunner } from "../lib/engine/model-runner.ts";
import { engineConfig, loadOptions, workerFields } from "../lib/engine/worker-config.ts";
import { WorkerCore } from "../lib/engine/worker-core.ts";
import { observeDecode, observeWorker } from "../lib/engine/worker-metrics.ts";
import { startAdminServer } from "../lib/runtime/admin-server.ts";
import { busFields, processFields, readNatsCredentials } from "../lib/runtime/config.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { announce, runProcess } from "../lib/runtime/process.ts";

await runProcess({
  name: "decode",
  config: z.object({
    ...processFields,
    ...busFields,
    ...workerFields,
    localPrefillRows: z.coerce.number().int().nonnegative().default(64),
    receiveBudgetMib: z.coerce.number().int().positive().default(16),
  }),
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
        role: "decode",
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
    const worker = new DecodeWorker(core, control, data, {
      localPrefillRows: config.localPrefillRows,
      receiveBudgetBytes: config.receiveBudgetMib * 1024 * 1024,
    });
    onStop(() => worker.stop());
    observeWorker(core, metrics);
    observeDecode(worker, metrics);
    onStop(async () => {
      started.drain();
      // What runs may finish, within the process's own bound.
      while (!started.engine.idle) await new Promise((resolve) => setTimeout(resolve, 20));
    });
    core.ready();
  },
});
