// A real API server for one test: etcd and kube-apiserver as child processes on free loopback ports, with their state in a folder that goes
// with them. No node, and no controllers but those asked for: what is written stays as it was written, which is all that a CRD, RBAC or a
// chart needs.
import { type ChildProcess, spawn } from "node:child_process";
import { generateKeyPair } from "node:crypto";
import { createWriteStream, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { apiServerMissing, clusterBinary } from "../../services/cli/cluster/binaries.ts";

export { apiServerMissing };

export interface ApiAnswer {
  status: number;
  // Whatever the API server says; tests look at a few fields.
  // biome-ignore lint/suspicious/noExplicitAny: JSON
  body: any;
}

export interface ApiRequest {
  body?: unknown;
  contentType?: string;
  /** Acts as this user, as RBAC sees it; the administrator unless given. */
  as?: string;
  accept?: string;
}

export interface TestApiServer {
  url: string;
  /** For the administrator; kubectl, helm and client libraries take it. */
  kubeconfig: string;
  /** The folder with etcd.log and kube-apiserver.log. */
  dir: string;
  call(method: string, path: string, options?: ApiRequest): Promise<ApiAnswer>;
  /** Server-side apply of one object, whose path its kind's plural names. */
  apply(path: string, object: unknown, fieldManager?: string): Promise<ApiAnswer>;
  /** Waits until `probe` answers with something, asking again meanwhile. */
  until<T>(what: string, probe: () => Promise<T | undefined>): Promise<T>;
  stop(): Promise<void>;
}

/** Against hanging, not against slowness. */
const waitMs = 180_000;
const adminToken = "administrator";

export interface ApiServerOptions {
  /** More flags for kube-apiserver. */
  flags?: string[];
  /** Controllers of kube-controller-manager to run beside it: "deployment-controller" and the like. None unless given. */
  controllers?: string[];
}

export async function startApiServer({ flags = [], controllers = [] }: ApiServerOptions = {}): Promise<TestApiServer> {
  const missing = apiServerMissing(controllers.length > 0);
  if (missing !== undefined) throw new Error(missing);
  const dir = mkdtempSync(join(tmpdir(), "pelagic-api-"));
  const children: ChildProcess[] = [];
  // A test that ends without stop() leaves nothing running.
  const killAll = () => {
    for (const child of children) child.kill("SIGKILL");
  };
  process.once("exit", killAll);
  const stop = async () => {
    process.off("exit", killAll);
    // The API server first: without its store it only complains.
    for (const child of children.reverse()) await kill(child);
    rmSync(dir, { recursive: true, force: true });
  };
  const start = (name: string, args: string[]) => {
    const log = createWriteStream(join(dir, `${name}.log`));
    const child = spawn(clusterBinary(name) as string, args, { stdio: ["ignore", "pipe", "pipe"], cwd: dir });
    child.stdout.pipe(log, { end: false });
    child.stderr.pipe(log, { end: false });
    children.push(child);
    return child;
  };
  try {
    const [client, peer, secure] = (await freePorts(3)) as [number, number, number];
    const etcdUrl = `http://127.0.0.1:${client}`;
    const peerUrl = `http://127.0.0.1:${peer}`;
    start("etcd", [
      ...["--data-dir", join(dir, "etcd"), "--listen-client-urls", etcdUrl, "--advertise-client-urls", etcdUrl],
      ...["--listen-peer-urls", peerUrl, "--initial-advertise-peer-urls", peerUrl, "--initial-cluster", `default=${peerUrl}`],
      "--unsafe-no-fsync",
    ]);
    const key = join(dir, "service-accounts.key");
    const { privateKey } = await promisify(generateKeyPair)("rsa", { modulusLength: 2048 });
    writeFileSync(key, privateKey.export({ type: "pkcs8", format: "pem" }), { mode: 0o600 });
    writeFileSync(join(dir, "tokens.csv"), `${adminToken},admin,admin,"system:masters"\n`, { mode: 0o600 });
    const server = start("kube-apiserver", [
      ...["--etcd-servers", etcdUrl, "--bind-address", "127.0.0.1", "--secure-port", String(secure), "--cert-dir", join(dir, "certs")],
      ...["--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "Node,RBAC", "--token-auth-file", join(dir, "tokens.csv")],
      ...["--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", key],
      ...["--service-account-signing-key-file", key, "--endpoint-reconciler-type", "none"],
      // Nothing here makes the accounts that pods would need.
      ...["--disable-admission-plugins", "ServiceAccount"],
      ...flags,
    ]);
    const certificate = join(dir, "certs", "apiserver.crt");
    const url = `https://127.0.0.1:${secure}`;
    const kubeconfig = join(dir, "kubeconfig");
    const until = pollUntil;
    const call = async (method: string, path: string, options: ApiRequest = {}) =>
      callApi(url, readFileSync(certificate), method, path, options);
    await until("the API server", async () => {
      if (server.exitCode !== null)
        throw new Error(`kube-apiserver ended:\n${readFileSync(join(dir, "kube-apiserver.log"), "utf8").slice(-2000)}`);
      const answer = await call("GET", "/readyz").catch(() => undefined);
      return answer?.status === 200 ? answer : undefined;
    });
    // The namespace that most tests use is made a moment after the server is ready.
    await until("the default namespace", async () => ((await call("GET", "/api/v1/namespaces/default")).status === 200 ? true : undefined));
    writeFileSync(kubeconfig, kubeconfigText(url, certificate), { mode: 0o600 });
    if (controllers.length > 0)
      start("kube-controller-manager", [
        ...["--kubeconfig", kubeconfig, "--controllers", controllers.join(","), "--leader-elect=false"],
        ...["--secure-port", "0", "--service-account-private-key-file", key, "--root-ca-file", certificate],
        // Above the rates meant to spare a shared cluster.
        ...["--kube-api-qps", "500", "--kube-api-burst", "1000"],
      ]);
    const apply = (path: string, object: unknown, fieldManager = "test") =>
      call("PATCH", `${path}?fieldManager=${fieldManager}&force=true&fieldValidation=Strict`, {
        body: object,
        contentType: "application/apply-patch+yaml",
      });
    return { url, kubeconfig, dir, call, apply, until, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function pollUntil<T>(what: string, probe: () => Promise<T | undefined>): Promise<T> {
  const endMs = Date.now() + waitMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (Date.now() > endMs) throw new Error(`${what}: not within ${waitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function callApi(url: string, ca: Buffer, method: string, path: string, options: ApiRequest): Promise<ApiAnswer> {
  return new Promise((resolve, reject) => {
    const headers: Record<string, string> = { authorization: `Bearer ${adminToken}`, accept: options.accept ?? "application/json" };
    if (options.body !== undefined) headers["content-type"] = options.contentType ?? "application/json";
    if (options.as !== undefined) headers["impersonate-user"] = options.as;
    const outgoing = request(new URL(path, url), { method, headers, ca, agent: false, timeout: 30_000 }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => {
        const text = Buffer.concat(chunks).toString("utf8");
        let body: unknown = text;
        try {
          body = JSON.parse(text);
        } catch {
          // "ok" and the like.
        }
        resolve({ status: response.statusCode ?? 0, body });
      });
    });
    outgoing.on("timeout", () => outgoing.destroy(new Error(`${method} ${path}: no answer in 30 s`)));
    outgoing.on("error", reject);
    outgoing.end(options.body === undefined ? undefined : JSON.stringify(options.body));
  });
}

function kubeconfigText(url: string, certificate: string): string {
  return JSON.stringify({
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "test", cluster: { server: url, "certificate-authority": certificate } }],
    users: [{ name: "admin", user: { token: adminToken } }],
    contexts: [{ name: "test", context: { cluster: "test", user: "admin" } }],
    "current-context": "test",
  });
}

/** Held together until all are known, so that they differ. */
async function freePorts(count: number): Promise<number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve, reject) => {
          const server = createServer();
          server.once("error", reject);
          server.listen(0, "127.0.0.1", () => resolve(server));
        }),
    ),
  );
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.kill("SIGKILL");
  });
}
