// A small process for the supervisor's tests, with a real connection to the bus and a real admin port. What it does comes by PELAGIC_BEHAVIOUR:
// "exits" at the start, "never-ready", or plain.
import { createServer } from "node:http";
import { z } from "zod";
import { startAdminServer } from "../../dist/services/lib/runtime/admin-server.js";
import { busFields, processFields, readNatsCredentials } from "../../dist/services/lib/runtime/config.js";
import { connectBus } from "../../dist/services/lib/runtime/nats-bus.js";
import { announce, runProcess } from "../../dist/services/lib/runtime/process.js";

const config = z.object({
  ...processFields,
  ...busFields,
  workerId: z.string().optional(),
  gatewayId: z.string().optional(),
  host: z.string().default("127.0.0.1"),
  port: z.coerce.number().default(0),
  behaviour: z.string().default("plain"),
});

await runProcess({
  name: "child",
  config,
  main: async ({ config, log, metrics, onStop }) => {
    if (config.behaviour === "exits") throw new Error("no weights here");
    const bus = await connectBus({
      servers: config.natsUrl,
      ...readNatsCredentials(config.natsCredentialsFile),
      name: config.workerId ?? config.gatewayId,
      log,
    });
    onStop(() => bus.close());
    const ready = () =>
      config.behaviour === "never-ready" ? { ready: false, reason: "still thinking" } : { ready: bus.connected, reason: "no bus" };
    const routes = { "/env": () => process.env };
    const admin = await startAdminServer({ host: config.metricsHost, port: config.metricsPort, registry: metrics, ready, routes, log });
    if (config.gatewayId === undefined) {
      announce({ metricsPort: admin.port });
      return;
    }
    const server = createServer((_request, response) => response.end(String(process.pid)));
    onStop(() => new Promise((resolve) => server.close(resolve)));
    server.listen(config.port, config.host, () => announce({ port: server.address().port, metricsPort: admin.port }));
  },
});
