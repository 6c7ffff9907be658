// A real Prometheus and its promtool: those that are installed, or the distribution's package unpacked under .cache.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { debianPackage } from "../../services/cli/cached-package.ts";
import { messageOf } from "../../services/cli/cli-error.ts";
import { findOnPath } from "../../services/cli/run-command.ts";
import { freePort } from "../../services/cli/free-port.ts";

export type PrometheusTools =
  | { missing: string; prometheus: ""; promtool: "" }
  | { missing: undefined; prometheus: string; promtool: string };

export async function prometheusTools(): Promise<PrometheusTools> {
  const [prometheus, promtool] = [findOnPath("prometheus"), findOnPath("promtool")];
  if (prometheus !== undefined && promtool !== undefined) return { missing: undefined, prometheus, promtool };
  try {
    const bin = join(await debianPackage("prometheus", () => undefined), "usr", "bin");
    return { missing: undefined, prometheus: join(bin, "prometheus"), promtool: join(bin, "promtool") };
  } catch (error) {
    return { missing: messageOf(error), prometheus: "", promtool: "" };
  }
}

export interface Target {
  port: number;
  labels: Record<string, string>;
}

export interface Prometheus {
  /** Asks /api/v1/PATH; throws what it refuses. */
  get<T>(path: string, parameters: Record<string, string>): Promise<T>;
  stop(): Promise<void>;
}

const startBoundMs = 30_000;

/** Scrapes every second and evaluates the rules as often. */
export async function startPrometheus(binary: string, targets: readonly Target[], rulesYaml: string): Promise<Prometheus> {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-prometheus-"));
  const scrape = {
    job_name: "pelagic",
    static_configs: targets.map(({ port, labels }) => ({ targets: [`127.0.0.1:${port}`], labels })),
  };
  // JSON is YAML.
  const config = {
    global: { scrape_interval: "1s", evaluation_interval: "1s" },
    rule_files: [join(dir, "rules.yaml")],
    scrape_configs: [scrape],
  };
  writeFileSync(join(dir, "prometheus.yml"), JSON.stringify(config));
  writeFileSync(join(dir, "rules.yaml"), rulesYaml.replaceAll(/^( +)interval: .*$/gm, "$1interval: 1s"));
  const address = `127.0.0.1:${await freePort()}`;
  const child = spawn(
    binary,
    [`--config.file=${join(dir, "prometheus.yml")}`, `--storage.tsdb.path=${join(dir, "data")}`, `--web.listen-address=${address}`],
    { cwd: dir, stdio: ["ignore", "ignore", "pipe"] },
  );
  let log = "";
  child.stderr.on("data", (chunk: Buffer) => {
    log = (log + chunk.toString("utf8")).slice(-20_000);
  });
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const stop = async () => {
    process.off("exit", kill);
    if (child.exitCode === null) child.kill("SIGKILL");
    await exited;
    rmSync(dir, { recursive: true, force: true });
  };
  for (const end = Date.now() + startBoundMs; ; ) {
    const ready = await fetch(`http://${address}/-/ready`).catch(() => undefined);
    if (ready?.ok) break;
    if (child.exitCode !== null || Date.now() > end) {
      await stop();
      throw new Error(`prometheus is not ready:\n${log}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    async get<T>(path: string, parameters: Record<string, string>) {
      const response = await fetch(`http://${address}/api/v1/${path}?${new URLSearchParams(parameters)}`);
      const body = (await response.json()) as { status: string; data: T; error?: string };
      if (body.status !== "success") throw new Error(`${body.error}: ${JSON.stringify(parameters)}`);
      return body.data;
    },
    stop,
  };
}
