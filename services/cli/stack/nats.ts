// The stack's own NATS server: on loopback, on a port that nobody else was told, with a user for each process.
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { natsServerConfig, natsUserName, type NatsRole, type NatsUser } from "../../lib/runtime/nats-permissions.ts";
import { writePrivateFile } from "./run-dir.ts";

export interface NatsCredentialsFile {
  /** The worker's or gateway's id; of the cli role, "cli". */
  processId: string;
  role: NatsRole;
  user: string;
  password: string;
  /** JSON with user and password, for its owner only. */
  file: string;
}

export interface NatsFiles {
  configFile: string;
  /** The server writes its real port into a file here. */
  portsDir: string;
  credentials: NatsCredentialsFile[];
}

/** Fresh passwords, a file for each process, and the server's configuration. */
export function writeNatsFiles(
  runDir: string,
  service: string,
  processes: { id: string; role: NatsRole }[],
  options: { monitored: boolean },
): NatsFiles {
  const portsDir = join(runDir, "nats");
  const credentialsDir = join(runDir, "credentials");
  for (const dir of [portsDir, credentialsDir]) mkdirSync(dir, { mode: 0o700 });
  const credentials = processes.map(({ id, role }) => ({
    processId: id,
    role,
    user: natsUserName(service, id),
    password: randomBytes(24).toString("base64url"),
    file: join(credentialsDir, `${id}.json`),
  }));
  for (const { user, password, file } of credentials) writePrivateFile(file, `${JSON.stringify({ user, password })}\n`);
  const configFile = join(portsDir, "nats.conf");
  const users: NatsUser[] = credentials.map(({ role, processId, user, password }) => ({ role, id: processId, user, password }));
  const monitor = options.monitored ? { monitorPort: -1 } : {};
  writePrivateFile(configFile, natsServerConfig({ service, host: "127.0.0.1", port: -1, portsFileDir: portsDir, users, ...monitor }));
  return { configFile, portsDir, credentials };
}

/** The port in the file that the server wrote, once it listens. */
export function readNatsPort(portsDir: string): number | undefined {
  return portOf(portsDir, "nats");
}

/** Where its monitoring is, if it has any. */
export function readNatsMonitorPort(portsDir: string): number | undefined {
  return portOf(portsDir, "monitoring");
}

function portOf(portsDir: string, kind: "nats" | "monitoring"): number | undefined {
  const files = readdirSync(portsDir)
    .filter((name) => name.endsWith(".ports"))
    .map((name) => join(portsDir, name));
  // A killed server leaves its file: the newest counts.
  const [newest] = files.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
  if (newest === undefined) return undefined;
  try {
    const urls = (JSON.parse(readFileSync(newest, "utf8")) as Partial<Record<typeof kind, string[]>>)[kind];
    return urls?.[0] === undefined ? undefined : Number(new URL(urls[0]).port);
  } catch {
    // Half written: the caller asks again.
    return undefined;
  }
}

/** Before a start: what a killed server left would be taken for the new one's. */
export function forgetNatsPort(portsDir: string): void {
  for (const name of readdirSync(portsDir)) {
    if (name.endsWith(".ports")) rmSync(join(portsDir, name));
  }
}
