// Starts a stack and says so, then waits to be killed: its children must not outlive it.
import { fileURLToPath } from "node:url";
import { startStack } from "../../dist/services/cli/stack/stack.js";

const child = fileURLToPath(new URL("child.mjs", import.meta.url));
const stack = await startStack({ scripts: { gateway: child, prefill: child, decode: child } });
process.stdout.write(`${JSON.stringify({ processes: stack.processes.map(({ name, pid }) => ({ name, pid })), logsDir: stack.logsDir })}\n`);
setInterval(() => undefined, 1_000);
