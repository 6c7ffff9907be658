// What the operator watches, and the snapshot of it that the planner gets for one ModelService.
import type { Log } from "../../services/lib/contracts/bus.ts";
import { expertPlacementKind } from "../api/expert-placement.ts";
import type { KubernetesObject, ObjectMeta, Pod, Workload } from "../planner/kubernetes.ts";
import { podDisruptionBudgetApi, workloadKinds } from "../planner/kubernetes.ts";
import { serviceLabel } from "../planner/names.ts";
import type { Observed } from "../planner/observed.ts";
import type { ApiClient } from "./api-client.ts";
import { Informer, type InformerObserver, type InformerOptions, type InformerTimes } from "./informer.ts";
import { type ApiObject, keyOf } from "./object-store.ts";
import { expertPlacementResource, leaseApi, modelServiceResource } from "./resources.ts";

type Watched<T> = ApiObject & T;

/** As the API server has it: read by operators/api when a round begins. */
export interface RawModelService extends ApiObject {
  spec?: { servedName?: string; autoscaling?: { policy?: string; scaleToZeroAfterSeconds?: number } };
  status?: unknown;
}

interface CustomResourceDefinition extends ApiObject {
  spec?: { versions?: { name: string; served?: boolean }[] };
  status?: { conditions?: { type: string; status: string }[] };
}

export interface WatchedOptions {
  client: ApiClient;
  /** undefined: all of them. */
  namespace?: string | undefined;
  /** Where gateways' pods are, and their labels. */
  gateways: { namespace: string; selector: string };
  /** This operator's own. Another one of that name is another release's, whose namespace it looks after itself. */
  lease: { namespace: string; name: string };
  times: InformerTimes;
  log: Log;
  observer: InformerObserver;
  /** Something of this ModelService (namespace/name) has changed; `fresh`: its own spec. */
  changed: (key: string, fresh: boolean) => void;
  /** Everything is there for the first time: before, a snapshot may lack what exists. */
  listed: () => void;
}

const leaderWorkerSetCrd = "leaderworkersets.leaderworkerset.x-k8s.io";

export class WatchedCluster {
  readonly services: Informer<RawModelService>;
  private readonly deployments: Informer<Watched<Workload>>;
  private readonly statefulSets: Informer<Watched<Workload>>;
  private readonly placements: Informer<Watched<KubernetesObject>>;
  private readonly budgets: Informer<Watched<KubernetesObject>>;
  private readonly pods: Informer<Watched<Pod>>;
  private readonly gateways: Informer<Watched<Pod>>;
  private readonly definitions: Informer<CustomResourceDefinition>;
  private leaderWorkerSets: Informer<Watched<Workload>> | undefined;
  /** Only where all namespaces are looked after. */
  private readonly leases: Informer<ApiObject> | undefined;
  private stopped = false;

  constructor(private readonly options: WatchedOptions) {
    const { client, times, log, observer, namespace } = options;
    const listed = () => this.informerListed();
    const shared = { client, times, log, observer, listed };
    this.services = new Informer<RawModelService>({
      ...shared,
      namespace,
      resource: modelServiceResource,
      groupOf: servedName,
      changed: (before, after) => this.serviceChanged(before, after),
    });
    this.deployments = new Informer(this.ownOptions<Watched<Workload>>(workloadKinds.Deployment, "Deployment"));
    this.statefulSets = new Informer(this.ownOptions<Watched<Workload>>(workloadKinds.StatefulSet, "StatefulSet"));
    this.placements = new Informer(this.ownOptions<Watched<KubernetesObject>>(expertPlacementResource.apiVersion, expertPlacementKind));
    this.budgets = new Informer(this.ownOptions<Watched<KubernetesObject>>(podDisruptionBudgetApi, "PodDisruptionBudget"));
    this.pods = new Informer(this.ownOptions<Watched<Pod>>("v1", "Pod"));
    this.gateways = new Informer<Watched<Pod>>({
      ...shared,
      namespace: options.gateways.namespace,
      resource: { apiVersion: "v1", kind: "Pod" },
      name: "gateways",
      labelSelector: options.gateways.selector,
      // Looked at when the autoscaler looks.
      changed: () => {},
    });
    this.definitions = new Informer<CustomResourceDefinition>({
      ...shared,
      resource: { apiVersion: "apiextensions.k8s.io/v1", kind: "CustomResourceDefinition" },
      fieldSelector: `metadata.name=${leaderWorkerSetCrd}`,
      changed: (_, definition) => this.leaderWorkerSetsKnown(definition !== undefined && isServed(definition)),
    });
    if (namespace === undefined)
      this.leases = new Informer<ApiObject>({
        ...shared,
        resource: leaseApi,
        fieldSelector: `metadata.name=${options.lease.name}`,
        // They are renewed all the time.
        changed: (before, after) => {
          if (before === undefined || after === undefined) this.leaseChanged((after ?? before) as ApiObject, after !== undefined);
        },
      });
  }

  start(): void {
    for (const informer of this.informers()) informer.start();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all(this.informers().map((informer) => informer.stop()));
  }

  informers(): Informer<ApiObject>[] {
    const others = [this.leaderWorkerSets as unknown as Informer<ApiObject> | undefined, this.leases];
    return [...this.needed(), ...others.filter((informer) => informer !== undefined)];
  }

  /** Without these nothing can be done. LeaderWorkerSets are someone else's API: few ModelServices need them, and the others must not wait. */
  needed(): Informer<ApiObject>[] {
    const { services, deployments, statefulSets, placements, budgets, pods, gateways, definitions } = this;
    return [services, deployments, statefulSets, placements, budgets, pods, gateways, definitions] as unknown as Informer<ApiObject>[];
  }

  /** Everything was listed once: nothing is missing only because it was not looked at. */
  get synced(): boolean {
    return this.needed().every(({ synced }) => synced) && (this.leaderWorkerSets?.tried ?? true) && (this.leases?.tried ?? true);
  }

  /** `found`: objects without our label that have a name which we need. */
  observe(key: string, found: KubernetesObject[]): Observed {
    const ofKind = <T>(kind: string) => found.filter((object) => object.kind === kind) as T[];
    return {
      deployments: [...this.deployments.store.group(key), ...ofKind<Workload>("Deployment")],
      statefulSets: [...this.statefulSets.store.group(key), ...ofKind<Workload>("StatefulSet")],
      expertPlacements: [...this.placements.store.group(key), ...ofKind<KubernetesObject>(expertPlacementKind)],
      leaderWorkerSets: [...(this.leaderWorkerSets?.store.group(key) ?? []), ...ofKind<Workload>("LeaderWorkerSet")],
      podDisruptionBudgets: [...this.budgets.store.group(key), ...ofKind<KubernetesObject>("PodDisruptionBudget")],
      pods: this.pods.store.group(key),
      leaderWorkerSetApi: this.leaderWorkerSets?.synced ?? false,
    };
  }

  /** Another release's operator looks after that namespace: two would change each other's workers for ever. */
  isOthers(namespace: string): boolean {
    const { lease } = this.options;
    return namespace !== lease.namespace && this.leases?.store.get(`${namespace}/${lease.name}`) !== undefined;
  }

  /** Those that this operator looks after. */
  ownServices(): RawModelService[] {
    return this.services.store.all().filter(({ metadata }) => !this.isOthers(metadata.namespace));
  }

  private leaseChanged({ metadata: { namespace } }: ApiObject, isThere: boolean): void {
    if (namespace === this.options.lease.namespace) return;
    this.options.log.info({ namespace, isThere }, "a namespace with an operator of its own");
    for (const service of this.services.store.all())
      if (service.metadata.namespace === namespace) this.options.changed(keyOf(service), false);
  }

  gatewayPods(): Pod[] {
    return this.gateways.store.all();
  }

  /** For a person. */
  get gatewaysWhere(): string {
    const { namespace, selector } = this.options.gateways;
    return `in namespace ${namespace} with the labels ${selector}`;
  }

  lookup(kind: string, { namespace, name }: { namespace: string; name: string }): ApiObject | undefined {
    return this.informerOf(kind)?.store.get(`${namespace}/${name}`);
  }

  /** Whether observe() finds such an object by itself. */
  isWatched(metadata: ObjectMeta, key: string): boolean {
    return serviceOf(metadata) === key;
  }

  learn(object: ApiObject): void {
    this.informerOf(object.kind ?? "")?.learn(object);
  }

  private informerOf(kind: string): Informer<ApiObject> | undefined {
    const byKind: Record<string, unknown> = {
      [modelServiceResource.kind]: this.services,
      Deployment: this.deployments,
      StatefulSet: this.statefulSets,
      [expertPlacementKind]: this.placements,
      LeaderWorkerSet: this.leaderWorkerSets,
      PodDisruptionBudget: this.budgets,
    };
    return byKind[kind] as Informer<ApiObject> | undefined;
  }

  private ownOptions<T extends ApiObject>(apiVersion: string, kind: string): InformerOptions<T> {
    const { client, times, log, observer, namespace, changed } = this.options;
    return {
      client,
      times,
      log,
      observer,
      namespace,
      listed: () => this.informerListed(),
      resource: { apiVersion, kind },
      labelSelector: serviceLabel,
      groupOf: ({ metadata }) => serviceOf(metadata),
      changed: (before, after) => {
        for (const key of new Set([before, after].flatMap((object) => (object === undefined ? [] : [serviceOf(object.metadata)]))))
          changed(key, false);
      },
    };
  }

  private serviceChanged(before: RawModelService | undefined, after: RawModelService | undefined): void {
    const { changed } = this.options;
    const one = (after ?? before) as RawModelService;
    changed(keyOf(one), before?.metadata.generation !== after?.metadata.generation);
    const names = new Set([before, after].flatMap((each) => (each === undefined ? [] : [servedName(each)])));
    if (names.size === 1 && before !== undefined && after !== undefined) return;
    // Who waits for a served name may have it now.
    for (const name of names) {
      for (const other of this.sameName(name)) if (other !== after) changed(keyOf(other), false);
    }
  }

  /** Served names that may have no worker until somebody asks. */
  sleepers(): string[] {
    const all = this.ownServices().filter(({ metadata, spec }) => {
      const { policy, scaleToZeroAfterSeconds } = spec?.autoscaling ?? {};
      return metadata.deletionTimestamp === undefined && policy === "slo" && scaleToZeroAfterSeconds !== undefined;
    });
    return [...new Set(all.map(servedName))];
  }

  /** In any namespace: the ModelServices with this served name. */
  sameName(servedName: string): RawModelService[] {
    return this.services.store.group(servedName).filter(({ metadata }) => !this.isOthers(metadata.namespace));
  }

  /** The definition came, or went: from then on LeaderWorkerSets are watched, or no more. */
  private leaderWorkerSetsKnown(known: boolean): void {
    if (this.stopped || known === (this.leaderWorkerSets !== undefined)) return;
    this.options.log.info({ known }, "LeaderWorkerSets");
    if (known) {
      const options = this.ownOptions<Watched<Workload>>(workloadKinds.LeaderWorkerSet, "LeaderWorkerSet");
      this.leaderWorkerSets = new Informer(options);
      this.leaderWorkerSets.start();
    } else {
      void this.leaderWorkerSets?.stop();
      this.leaderWorkerSets = undefined;
      this.everyService();
    }
  }

  private informerListed(): void {
    if (this.synced) this.options.listed();
  }

  everyService(): void {
    for (const service of this.services.store.all()) this.options.changed(keyOf(service), false);
  }
}

/** The ModelService that an object says it belongs to. */
function serviceOf({ namespace, labels }: ObjectMeta): string {
  return `${namespace}/${labels?.[serviceLabel]}`;
}

function isServed({ spec, status }: CustomResourceDefinition): boolean {
  const established = status?.conditions?.some(({ type, status }) => type === "Established" && status === "True") ?? false;
  const version = workloadKinds.LeaderWorkerSet.split("/")[1];
  return established && (spec?.versions?.some(({ name, served }) => name === version && served !== false) ?? false);
}

function servedName({ metadata, spec }: RawModelService): string {
  return spec?.servedName ?? metadata.name;
}
