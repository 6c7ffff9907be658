// deploy/images/compose.yaml as objects of a Kubernetes node, since there is no Docker here: each service's command, environment, files, health check and
// restrictions are the file's own. A field that is not known here is an error, so that nothing in the file goes untried.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parse } from "yaml";
import { natsTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { inTree } from "../../services/cli/tree.ts";
import { securePod, service } from "./served-model-objects.ts";

const file = inTree("deploy", "images", "compose.yaml");

interface ComposeService {
  image: string;
  command: string[];
  environment: Record<string, string | number>;
  configs: { source: string; target: string }[];
  healthcheck?: { test: string[]; interval: string; timeout: string; start_period: string };
  ports?: string[];
  tmpfs?: string[];
  read_only: true;
  cap_drop: string[];
  security_opt: string[];
  stop_grace_period?: string;
}

const known = [
  ...["image", "command", "environment", "configs", "healthcheck", "ports", "tmpfs", "read_only", "cap_drop", "security_opt"],
  // What Kubernetes does by itself, or a person with Docker.
  ...["build", "restart", "stop_grace_period", "depends_on"],
];

function read() {
  return parse(readFileSync(file, "utf8"), { merge: true }) as {
    services: Record<string, ComposeService>;
    configs: Record<string, { file: string }>;
  };
}

/** The files of `configs` and the variables of .env, with passwords that the script makes as for a person with Docker. */
function withCredentials<T>(use: (fileText: (path: string) => string, variables: ReadonlyMap<string, string>) => T): T {
  const folder = mkdtempSync(join(tmpdir(), "pelagic-compose-"));
  try {
    execFileSync(join(dirname(file), "credentials.sh"), [folder]);
    const lines = readFileSync(join(folder, ".env"), "utf8").trim().split("\n");
    const variables = new Map(lines.map((line) => line.split("=", 2) as [string, string]));
    return use((path) => readFileSync(join(path.startsWith("./credentials/") ? folder : dirname(file), path), "utf8"), variables);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Replaces `${NAME:?what to do}` as Docker does. */
function interpolated(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replaceAll(/\$\{(\w+):\?[^}]*\}/g, (all, name: string) => variables.get(name) ?? all);
}

const images: Record<string, string> = { pelagic: pelagicTag, [`docker.io/library/${natsTag.replace("localhost/", "")}`]: natsTag };

/** One more like the file's, but for `other`. */
export function composeService(
  namespace: string,
  like: string,
  other: { name: string; image: string; env: Record<string, string> },
): object {
  const each = read().services[like] as ComposeService;
  return deployment(namespace, other.name, { ...each, environment: { ...each.environment, ...other.env } }, other.image);
}

export function composeObjects(namespace: string): object[] {
  return withCredentials((fileText, variables) => {
    const text = JSON.stringify(objectsOf(namespace, fileText));
    return JSON.parse(interpolated(text, variables)) as object[];
  });
}

function objectsOf(namespace: string, fileText: (path: string) => string): object[] {
  const { services, configs } = read();
  const published = services.gateway?.ports?.[0];
  const stringData = Object.fromEntries(Object.entries(configs).map(([name, { file: path }]) => [name, fileText(path)]));
  return [
    { apiVersion: "v1", kind: "Secret", metadata: { name: "configs", namespace }, stringData },
    ...Object.entries(services).map(([name, each]) => {
      const unknown = Object.keys(each).filter((field) => !known.includes(field));
      const image = images[each.image];
      if (unknown.length > 0 || image === undefined)
        throw new Error(`compose.yaml, ${name}: ${unknown.join(", ") || each.image} is not known here`);
      return deployment(namespace, name, each, image);
    }),
    // In Docker every service is found by its name, on whatever port.
    service(namespace, "nats", 4222),
    service(namespace, "gateway", Number(published?.split(":").at(-1))),
  ];
}

function deployment(namespace: string, name: string, each: ComposeService, image: string): object {
  const { command, environment, configs, healthcheck, tmpfs = [], cap_drop, security_opt, read_only } = each;
  const seconds = (text: string) => Number.parseInt(text, 10);
  const mounts = configs.map(({ source, target }) => ({ name: "configs", mountPath: target, subPath: source, readOnly: true }));
  const [how, ...probe] = healthcheck?.test ?? ["CMD"];
  if (how !== "CMD") throw new Error(`compose.yaml, ${name}: healthcheck ${how} is not known here`);
  const container = {
    ...{ name, image, imagePullPolicy: "Never", args: command },
    env: Object.entries(environment).map(([key, value]) => ({ name: key, value: String(value) })),
    securityContext: {
      readOnlyRootFilesystem: read_only,
      capabilities: { drop: cap_drop },
      allowPrivilegeEscalation: !security_opt.includes("no-new-privileges:true"),
    },
    ...(healthcheck && {
      readinessProbe: {
        exec: { command: probe },
        ...{ periodSeconds: seconds(healthcheck.interval), timeoutSeconds: seconds(healthcheck.timeout), failureThreshold: 10 },
      },
    }),
    volumeMounts: [...mounts, ...tmpfs.map((mountPath, i) => ({ name: `tmpfs-${i}`, mountPath }))],
  };
  const volumes = [
    { name: "configs", secret: { secretName: "configs" } },
    ...tmpfs.map((_, i) => ({ name: `tmpfs-${i}`, emptyDir: { medium: "Memory" } })),
  ];
  const labels = { app: name };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name, namespace },
    spec: {
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          ...{ automountServiceAccountToken: false, enableServiceLinks: false, securityContext: securePod },
          terminationGracePeriodSeconds: seconds(each.stop_grace_period ?? "10s"),
          ...{ containers: [container], volumes },
        },
      },
    },
  };
}
