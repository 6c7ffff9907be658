// Plain objects for the node: single pods, and a NATS that no chart of ours makes.
import { readFileSync } from "node:fs";
import { natsTag, pelagicTag } from "../../services/cli/cluster/images.ts";
import { inTree } from "../../services/cli/tree.ts";

export const namespace = "pelagic-trial";

const roles = ["gateway", "prefill", "decode"] as const;
const password = (role: string) => `p-${role}-of-a-trial`;
const credentials = (role: string) => JSON.stringify({ user: role, password: password(role) });
const passwordVariable = (role: string) => `PELAGIC_NATS_${role.toUpperCase()}_PASSWORD`;
const secure = {
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ["ALL"] },
};
export const securePod = { runAsNonRoot: true, runAsUser: 65_532, seccompProfile: { type: "RuntimeDefault" } };

/** Pods that are not as restricted as can be are refused here. */
export const restrictedNamespace = (name: string) => ({
  apiVersion: "v1",
  kind: "Namespace",
  metadata: { name, labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
});

export function onePod(name: string, args: string[]): object {
  return {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, namespace },
    spec: {
      restartPolicy: "Never",
      automountServiceAccountToken: false,
      securityContext: securePod,
      containers: [{ name: "pelagic", image: pelagicTag, imagePullPolicy: "Never", args, securityContext: secure }],
    },
  };
}

/** NATS as no chart of ours makes it, behind the Service `nats`, with the credentials of each role in the Secret `bus`. */
export function busObjects(inNamespace: string): object[] {
  const files = {
    "nats.conf": readFileSync(inTree("deploy", "images", "nats.conf"), "utf8"),
    ...Object.fromEntries(roles.map((role) => [`${role}.json`, credentials(role)])),
  };
  return [
    { apiVersion: "v1", kind: "Secret", metadata: { name: "bus", namespace: inNamespace }, stringData: files },
    deployment(inNamespace, "nats", {
      image: natsTag,
      args: ["--config", "/run/bus/nats.conf"],
      env: roles.map((role) => ({ name: passwordVariable(role), value: password(role) })),
      ports: [{ containerPort: 4222 }],
      readinessProbe: { tcpSocket: { port: 4222 }, periodSeconds: 1 },
    }),
    service(inNamespace, "nats", 4222),
  ];
}

/** For a release of the chart that uses such a NATS: a Secret for each role, `bus-ROLE`. */
export function credentialSecrets(inNamespace: string): object[] {
  return roles.map((role) => ({
    ...{ apiVersion: "v1", kind: "Secret", metadata: { name: `bus-${role}`, namespace: inNamespace } },
    stringData: { "credentials.json": credentials(role) },
  }));
}

function deployment(inNamespace: string, name: string, container: object): object {
  const labels = { app: name };
  return {
    apiVersion: "apps/v1",
    kind: "Deployment",
    metadata: { name, namespace: inNamespace },
    spec: {
      selector: { matchLabels: labels },
      template: {
        metadata: { labels },
        spec: {
          automountServiceAccountToken: false,
          securityContext: securePod,
          containers: [
            {
              name,
              imagePullPolicy: "Never",
              ...container,
              securityContext: secure,
              volumeMounts: [{ name: "bus", mountPath: "/run/bus", readOnly: true }],
            },
          ],
          volumes: [{ name: "bus", secret: { secretName: "bus" } }],
        },
      },
    },
  };
}

export function service(inNamespace: string, name: string, port: number): object {
  return {
    apiVersion: "v1",
    kind: "Service",
    metadata: { name, namespace: inNamespace },
    spec: { selector: { app: name }, ports: [{ port }] },
  };
}
