// A process over runProcess for process.test.ts; its behaviour comes by environment.
import { z } from "zod";
import { processFields } from "../../dist/services/lib/runtime/config.js";
import { announce, runProcess } from "../../dist/services/lib/runtime/process.js";

await runProcess({
  name: "child",
  config: z.object({ ...processFields, behaviour: z.string().default("plain") }),
  main: async ({ config, log, onStop, stopping }) => {
    if (config.behaviour === "throws") throw new Error("cannot start");
    if (config.behaviour === "rejects") setTimeout(() => Promise.reject(new Error("forgotten")), 50);
    onStop(() => log.info({ aborted: stopping.aborted }, "first added, stopped last"));
    onStop(() => {
      if (config.behaviour === "hangs") return new Promise(() => undefined);
      log.info({}, "last added, stopped first");
    });
    setInterval(() => undefined, 1_000);
    announce({ metricsPort: 1234 });
  },
});
