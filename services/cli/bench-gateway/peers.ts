// The gateways that ours is measured beside, and the stub that they stand before: processes on loopback, gone with the bench.
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAnnouncement } from "../../lib/runtime/process.ts";
import { debianPackage, fillCached } from "../cached-package.ts";
import { CliError } from "../cli-error.ts";
import { findOnPath, lastLines, runCommand } from "../run-command.ts";
import { SupervisedProcess } from "../stack/supervised-process.ts";
import { inTree } from "../tree.ts";
import type { HttpTarget } from "./http-client.ts";
import { freePort } from "../free-port.ts";

export interface Peer {
  name: string;
  pid: number;
  target: HttpTarget;
}

export interface PeerSet {
  /** The stub itself, then the gateways before it. */
  direct: HttpTarget;
  peers: Peer[];
  /** What could not be had, and why. */
  missing: string[];
  close(): Promise<void>;
}

const portkey = {
  name: "@portkey-ai/gateway",
  version: "1.15.2",
  integrity: "sha512-OuwwQEJ0rnKQuPgaCqyMpP+X5Uly2h9EBDm5Lx/NYu9MXTzB/nKrKgjd8J3vPGeNpYoyxTzKSzTV2tGv8Dd+fg==",
  /** With later ones of this dependency it answers every stream with 500: it writes to headers that have become immutable. */
  overrides: { "@hono/node-server": "1.14.0" },
};
const startBoundMs = 20_000;
const stopBoundMs = 2_000;
const pollMs = 50;

export async function startPeers(modelDir: string, stepMs: number, progress: (text: string) => void): Promise<PeerSet> {
  const dir = mkdtempSync(join(tmpdir(), "pelagic-bench-"));
  const children: SupervisedProcess[] = [];
  const close = async () => {
    await Promise.all(children.map((child) => child.stop(stopBoundMs)));
    rmSync(dir, { recursive: true, force: true });
  };
  const start = (name: string, command: string, args: string[], onStdoutLine: (line: string) => void = () => undefined) => {
    const logFile = join(dir, `${name}.log`);
    const silent = { onStarted: () => undefined, onDied: () => undefined, onGivenUp: () => undefined };
    const child = new SupervisedProcess({ name, command, args: () => args, env: () => ({}), logFile, onStdoutLine }, silent);
    children.push(child);
    child.start();
    return child;
  };
  const target = (port: number, headers: Record<string, string> = {}): HttpTarget => ({
    url: `http://127.0.0.1:${port}/v1/chat/completions`,
    headers,
  });
  try {
    let stubPort: number | undefined;
    const stub = start(
      "openai-stub",
      process.execPath,
      [new URL("openai-stub.js", import.meta.url).pathname, modelDir, String(stepMs)],
      (line) => {
        stubPort = parseAnnouncement(line)?.port ?? stubPort;
      },
    );
    await until(stub, async () => stubPort !== undefined);
    const port = stubPort as unknown as number;
    const peers: Peer[] = [];
    const missing: string[] = [];
    const add = async (name: string, begin: () => Promise<{ child: SupervisedProcess; target: HttpTarget }>) => {
      try {
        const { child, target: reached } = await begin();
        await until(child, () => listens(Number(new URL(reached.url).port)));
        peers.push({ name, pid: child.identity?.pid ?? 0, target: reached });
      } catch (error) {
        missing.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    };
    await add("nginx", async () => {
      const binary = await nginxBinary(progress);
      const own = await freePort();
      writeFileSync(join(dir, "nginx.conf"), nginxConfig(dir, own, port));
      return { child: start("nginx", binary, ["-p", dir, "-e", "stderr", "-c", join(dir, "nginx.conf")]), target: target(own) };
    });
    await add(`${portkey.name} ${portkey.version}`, async () => {
      const script = await portkeyScript(progress);
      const own = await freePort();
      const headers = {
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": `http://127.0.0.1:${port}/v1`,
        authorization: "Bearer none",
      };
      return { child: start("portkey", process.execPath, [script, `--port=${own}`, "--headless"]), target: target(own, headers) };
    });
    return { direct: target(port), peers, missing, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** One worker that buffers nothing and keeps its connections on both sides. */
function nginxConfig(dir: string, port: number, stubPort: number): string {
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((name) => `${name}_temp_path ${join(dir, `nginx-${name}`)};`);
  return `daemon off; master_process off; pid ${join(dir, "nginx.pid")}; worker_rlimit_nofile 16384;
events { worker_connections 8192; }
http {
  access_log off; ${temporary.join(" ")}
  keepalive_requests 1000000; keepalive_timeout 75s;
  upstream stub { server 127.0.0.1:${stubPort}; keepalive 4096; keepalive_requests 1000000; }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / { proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }
  }
}
`;
}

/** The one that is installed, or the distribution's package unpacked. */
async function nginxBinary(progress: (text: string) => void): Promise<string> {
  const installed = findOnPath("nginx") ?? ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].find((path) => existsSync(path));
  return installed ?? join(await debianPackage("nginx", progress), "usr", "sbin", "nginx");
}

async function portkeyScript(progress: (text: string) => void): Promise<string> {
  const dir = inTree(".cache", `portkey-${portkey.version}`);
  const script = join(dir, "node_modules", portkey.name, "build", "start-server.js");
  if (existsSync(script)) return script;
  progress(`getting ${portkey.name} ${portkey.version}`);
  await fillCached(dir, async (work) => {
    const wanted = { private: true, dependencies: { [portkey.name]: portkey.version }, overrides: portkey.overrides };
    writeFileSync(join(work, "package.json"), JSON.stringify(wanted));
    const args = ["install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    const got = await runCommand("npm", args, { cwd: work, timeoutMs: 300_000 });
    if (got.exitCode !== 0) throw new CliError(`npm install: ${lastLines(got, 1)}`);
    const lock = JSON.parse(readFileSync(join(work, "package-lock.json"), "utf8")) as { packages: Record<string, { integrity?: string }> };
    if (lock.packages[`node_modules/${portkey.name}`]?.integrity !== portkey.integrity) {
      throw new CliError(`${portkey.name} ${portkey.version} is not the package that it was`);
    }
  });
  return script;
}

async function until(child: SupervisedProcess, reached: () => Promise<boolean>): Promise<void> {
  for (const deadline = performance.now() + startBoundMs; !(await reached()); ) {
    if (child.identity === undefined) throw new CliError(`it ended: ${child.logTail(2).join(" ")}`);
    if (performance.now() > deadline) throw new CliError(`not up within ${startBoundMs / 1000} s`);
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}
