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
  const listed = others.slice(0, 20).map(({ metadata: { namespace, name } }) => `  kubectl -n ${namespace} delete modelservice ${name}`);
  const more = others.length > listed.length ? [`  (and ${others.length - listed.length} more)`] : [];
  return [
    "there are ModelServices that this release did not make. Delete them first, while the operator can drain them:",
    ...listed,
    ...more,
  ].join("\n");
}
