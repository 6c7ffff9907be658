// Which workers are a model's own, and which of two builds of one name to ask. Pure.
import type { RoutingSnapshot, WorkerView } from "./state-view.ts";

export interface ModelBuild {
  /** What clients call it. */
  name: string;
  /** Of the small files that it is served by, where they came from workers: only who has the same ones is asked. null: any worker of the name. */
  filesDigest: string | null;
}

type Belonging = Pick<WorkerView, "modelName" | "filesDigest">;

export function isOf(worker: Belonging, { name, filesDigest }: ModelBuild): boolean {
  return worker.modelName === name && (filesDigest === null || worker.filesDigest === filesDigest);
}

export function isReadyDecodeOf(worker: Belonging & Pick<WorkerView, "role" | "state">, build: ModelBuild): boolean {
  return worker.role === "decode" && worker.state === "ready" && isOf(worker, build);
}

/**
 * Of the builds of one name (while its workers change there are two) the one whose ready decode workers have the least to do each, so that new
 * ones take their share as they come; among equals the first.
 */
export function leastLoaded<B extends { model: ModelBuild }>(builds: readonly B[], { workers }: RoutingSnapshot): B | undefined {
  let best: B | undefined;
  let least = Number.POSITIVE_INFINITY;
  for (const build of builds) {
    const ready = workers.filter((worker) => isReadyDecodeOf(worker, build.model));
    const requests = ready.reduce((sum, one) => sum + one.requests.running + one.requests.waiting + one.unreported.requests, 0);
    const load = ready.length === 0 ? Number.POSITIVE_INFINITY : requests / ready.length;
    if (best === undefined || load < least) [best, least] = [build, load];
  }
  return best;
}
