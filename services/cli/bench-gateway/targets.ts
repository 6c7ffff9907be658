// What the project promises of its gateway, held against what was measured. Pure.
import { atLeast, atMost, type BenchTarget } from "../bench-report.ts";

const addedMs = 1;
const ofNginx = 0.5;
/** Of two runs of the same: the tail of one is no more than this of the other's. */
const sameTail = 1.5;

export interface AddedP50 {
  firstMs: number;
  totalMs: number;
}

export function latencyTargets({ firstMs, totalMs }: AddedP50): BenchTarget[] {
  return [
    atMost("p50 of the first token, more than by bare NATS", firstMs, "ms", addedMs),
    atMost("p50 of the end, more than by bare NATS", totalMs, "ms", addedMs),
  ];
}

export interface Carried {
  streamsACore: number;
  /** That a reader gets an answer's tokens in: who merges more writes less. */
  pieces: number;
}

/** null where it was not to be had: not measured, so not met. */
export interface Beside {
  ours: Carried;
  nginx: Carried | null;
  published: Carried | null;
}

export function coreTargets({ ours, nginx, published }: Beside): BenchTarget[] {
  const pieces = (name: string, peer: Carried | null) =>
    peer === null ? name : `${name} (an answer comes in ${ours.pieces.toFixed(1)} pieces here, in ${peer.pieces.toFixed(1)} there)`;
  const ratio = (peer: Carried | null) => (peer === null ? Number.NaN : ours.streamsACore / peer.streamsACore);
  return [
    atLeast(`streams a core, of ${pieces("nginx's", nginx)}`, ratio(nginx), "", ofNginx),
    atLeast(`streams a core, of ${pieces("the published gateway's", published)}`, ratio(published), "", 1),
  ];
}

export interface StreamsRun {
  asked: number;
  /** Ended with the whole right answer. */
  right: number;
  jitterP99Ms: number;
}

export function streamsTargets(allRead: StreamsRun, someStall: StreamsRun): BenchTarget[] {
  return [
    atLeast("streams that are right and whole", allRead.right, "", allRead.asked),
    atLeast("streams that are right and whole beside stalled readers", someStall.right, "", someStall.asked),
    atMost("p99 jitter beside stalled readers, of that without", someStall.jitterP99Ms / allRead.jitterP99Ms, "", sameTail),
  ];
}
