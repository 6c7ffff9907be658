// What a node would do with the chart's Jobs, where there is none: runs the process that the Job names, under the Job's own service account.
import { spawn } from "node:child_process";
import { writeFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inTree } from "../../services/cli/tree.ts";
import type { TestApiServer } from "./api-server.ts";

export interface JobRunner {
  /** Of each Job that has run: its name, the exit code and what it logged. */
  ran: { name: string; code: number | null; log: string }[];
  stop(): Promise<void>;
}

export async function accountKubeconfig(server: TestApiServer, namespace: string, name: string): Promise<string> {
  const path = `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`;
  const body = { apiVersion: "authentication.k8s.io/v1", kind: "TokenRequest", spec: {} };
  const { body: made } = await server.call("POST", path, { body });
  const config = JSON.parse(readFileSync(server.kubeconfig, "utf8"));
  config.users[0].user = { token: made.status.token };
  config.contexts[0].context.namespace = namespace;
  const file = join(server.dir, `${name}.kubeconfig`);
  writeFileSync(file, JSON.stringify(config), { mode: 0o600 });
  return file;
}

export function runJobs(server: TestApiServer, namespace: string): JobRunner {
  const ran: JobRunner["ran"] = [];
  const seen = new Set<string>();
  let stopped = false;
  const loop = (async () => {
    while (!stopped) {
      const { body } = await server.call("GET", `/apis/batch/v1/namespaces/${namespace}/jobs`);
      for (const job of body.items ?? []) {
        if (seen.has(job.metadata.uid)) continue;
        seen.add(job.metadata.uid);
        ran.push(await run(job));
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  })();

  // biome-ignore lint/suspicious/noExplicitAny: a Job
  async function run(job: any): Promise<JobRunner["ran"][number]> {
    const pod = job.spec.template.spec;
    const [process_, ...args] = pod.containers[0].args as string[];
    const kubeconfig = await accountKubeconfig(server, namespace, pod.serviceAccountName);
    const startTime = new Date().toISOString();
    const child = spawn(process.execPath, [inTree("dist", "operators", "jobs", `${process_}.js`), ...args, "--kubeconfig", kubeconfig], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let log = "";
    child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
      log += chunk;
    });
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    const now = new Date().toISOString();
    const condition = (type: string) => ({ type, status: "True", lastTransitionTime: now, reason: "Test", message: "" });
    const status =
      code === 0
        ? { startTime, completionTime: now, succeeded: 1, conditions: [condition("SuccessCriteriaMet"), condition("Complete")] }
        : { startTime, failed: 1, conditions: [condition("FailureTarget"), condition("Failed")] };
    const patched = await server.call("PATCH", `/apis/batch/v1/namespaces/${namespace}/jobs/${job.metadata.name}/status`, {
      body: { status },
      contentType: "application/merge-patch+json",
    });
    if (patched.status !== 200) log += JSON.stringify(patched.body);
    return { name: job.metadata.name, code, log };
  }

  return {
    ran,
    async stop() {
      stopped = true;
      await loop;
    },
  };
}
