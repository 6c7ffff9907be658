// bench: one sub-command for each benchmark; all print the same form.
import type { Command } from "commander";
import * as autoscale from "./bench-autoscale.ts";
import * as cancel from "./bench-cancel.ts";
import * as engine from "./bench-engine.ts";
import * as experts from "./bench-experts.ts";
import * as gateway from "./bench-gateway.ts";
import * as router from "./bench-router.ts";
import * as kv from "./bench-kv.ts";
import * as load from "./bench-load.ts";

export function register(program: Command): void {
  const bench = program
    .command("bench")
    .description(
      "measure something beside the ceiling or the peer measured in the same run; exit code 1 where a target that the bench states is missed",
    );
  engine.register(bench);
  router.register(bench);
  kv.register(bench);
  load.register(bench);
  gateway.register(bench);
  cancel.register(bench);
  autoscale.register(bench);
  experts.register(bench);
}
