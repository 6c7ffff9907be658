import { createServer } from "node:net";
import { CliError, messageOf } from "../cli-error.ts";

/** Throws an error that says what to do when the port cannot be listened on. */
export async function checkPortFree(host: string, port: number): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      const probe = createServer();
      probe.once("error", reject);
      probe.listen(port, host, () => probe.close(() => resolve()));
    });
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "EADDRINUSE")
      throw new CliError(
        `port ${port} is taken: choose another one with --port N, or stop what uses it (./pelagic down --port ${port}, if it is ours)`,
      );
    if (code === "EACCES") throw new CliError(`port ${port} needs root: choose one above 1023 with --port N`);
    throw new CliError(`cannot listen on ${host}:${port}: ${messageOf(error)}`);
  }
}
