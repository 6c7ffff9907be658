// What a worker process opens before it loads its model: the admin port, announced at once so that its start can be watched, and two
// connections to the bus, so that no control message waits behind KV frames.
import type { z } from "zod";
import type { Bus } from "../contracts/bus.ts";
import { type AdminServerOptions, startAdminServer, type Readiness } from "./admin-server.ts";
import { type busFields, type processFields, readNatsCredentials } from "./config.ts";
import { countDropped } from "./metrics.ts";
import { connectBus } from "./nats-bus.ts";
import { announce, type ProcessContext } from "./process.ts";
import { type ProcessTracer, startTracing } from "./tracing.ts";

export interface WorkerPorts {
  metricsPort: number;
  control: Bus;
  data: Bus;
  tracer: ProcessTracer | undefined;
}

type WorkerProcessConfig = z.output<z.ZodObject<typeof processFields & typeof busFields>> & { workerId: string };

export async function openWorkerPorts(
  context: ProcessContext<WorkerProcessConfig>,
  ready: () => Readiness,
  routes: NonNullable<AdminServerOptions["routes"]> = {},
): Promise<WorkerPorts> {
  const { config, log, metrics, onStop } = context;
  const admin = await startAdminServer({ host: config.metricsHost, port: config.metricsPort, registry: metrics, ready, routes, log });
  onStop(() => admin.close());
  announce({ metricsPort: admin.port });
  const connection = { servers: config.natsUrl, ...readNatsCredentials(config.natsCredentialsFile), log, onDropped: countDropped(metrics) };
  const control = await connectBus({ ...connection, name: `${config.workerId} control` });
  onStop(() => control.close());
  const data = await connectBus({ ...connection, name: `${config.workerId} data` });
  onStop(() => data.close());
  const tracer = await startTracing({ name: context.name, id: config.workerId }, process.env, log);
  onStop(() => tracer?.close());
  return { metricsPort: admin.port, control, data, tracer };
}
