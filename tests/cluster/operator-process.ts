// Operator processes as they run in a pod, but for the kubeconfig that they are given.
import { type ChildProcess, spawn } from "node:child_process";
import { parseAnnouncement } from "../../services/lib/runtime/process.ts";
import { inTree } from "../../services/cli/tree.ts";

export interface OperatorProcess {
  child: ChildProcess;
  port: number;
  /** What it logged, for a failed test. */
  log(): string;
  get(path: string): Promise<{ status: number; text: string }>;
  leads(): Promise<boolean>;
  /** A metric's values, added up over those series that have these labels. */
  metric(name: string, labels?: Record<string, string>): Promise<number>;
  /** Ends it, with SIGTERM unless told otherwise, and gives its exit code. */
  end(signal?: NodeJS.Signals): Promise<number | null>;
}

const keptLogBytes = 200_000;

export async function startOperator(kubeconfig: string, flags: string[] = []): Promise<OperatorProcess> {
  const workers = ["--worker-image", "example.com/pelagic:1", "--worker-nats-url", "nats://nats:4222"];
  const given = ["--kubeconfig", kubeconfig, ...(flags.includes("--worker-image") ? [] : workers)];
  const child = spawn(process.execPath, [inTree("dist", "operators", "main.js"), ...given, "--exit-with-parent", ...flags], {
    stdio: ["pipe", "pipe", "pipe"],
  });
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => {
    log = (log + chunk.toString("utf8")).slice(-keptLogBytes);
  });
  const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
  const port = await new Promise<number>((resolve, reject) => {
    let text = "";
    child.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString("utf8");
      const said = text.split("\n").map(parseAnnouncement).find(Boolean);
      if (said) resolve(said.metricsPort);
    });
    void exited.then((code) => reject(new Error(`the operator ended with ${code}:\n${log}`)));
  });
  const get = async (path: string) => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    return { status: response.status, text: await response.text() };
  };
  return {
    child,
    port,
    log: () => log,
    get,
    leads: async () => (JSON.parse((await get("/leader")).text) as { leads: boolean }).leads,
    async metric(name, labels = {}) {
      const lines = (await get("/metrics")).text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
      const wanted = Object.entries(labels).map(([key, value]) => `${key}="${value}"`);
      return lines
        .filter((line) => wanted.every((label) => line.includes(label)))
        .reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
    },
    async end(signal = "SIGTERM") {
      child.kill(signal);
      return exited;
    },
  };
}
