// Which ModelServices a Helm release made, by the annotations that Helm puts on all that it makes.

export interface NamedObject {
  metadata: { name: string; namespace: string; uid: string; annotations?: Record<string, string>; deletionTimestamp?: string };
}

export interface Release {
  name: string;
  namespace: string;
}

export function modelsOfRelease(all: NamedObject[], release: Release): { own: NamedObject[]; others: NamedObject[] } {
  const isOwn = ({ metadata: { annotations } }: NamedObject) =>
    annotations?.["meta.helm.sh/release-name"] === release.name && annotations["meta.helm.sh/release-namespace"] === release.namespace;
  return { own: all.filter(isOwn), others: all.filter((each) => !isOwn(each)) };
}

/** Without an operator they would never end, nor would their workers: hence not left to themselves. */
export function refusal(others: NamedObject[]): string {
  return [
    "there are ModelServices that this release did not make. Delete them first, while the operator can drain them:",
    ...commands(others, (name) => `delete modelservice ${name}`),
  ].join("\n");
}

/** Said before the wait: helm shows what a job said that failed, and one that ran out of time can say no more. */
export function patience(own: NamedObject[]): string {
  return [
    "waiting until the operator has drained what this release made. It takes the finalizer away; where none runs, these do, and nothing is drained:",
    ...commands(own, (name) => `patch modelservice ${name} --type=merge -p '{"metadata":{"finalizers":null}}'`),
  ].join("\n");
}

function commands(models: NamedObject[], command: (name: string) => string): string[] {
  const listed = models.slice(0, 20).map(({ metadata: { namespace, name } }) => `  kubectl -n ${namespace} ${command(name)}`);
  return models.length > listed.length ? [...listed, `  (and ${models.length - listed.length} more)`] : listed;
}
