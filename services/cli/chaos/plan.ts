// Which fault strikes whom at which point next. Pure, from a seed and what was struck before.
import type { ProtocolPoint } from "../../lib/simulator/protocol-points.ts";
import type { Random } from "../../lib/simulator/random.ts";

export const faults = ["kill", "stop", "restart"] as const;
export type Fault = (typeof faults)[number];
export const roles = ["decode", "prefill", "gateway", "nats"] as const;
export type Role = (typeof roles)[number];
/** At a message, or at a moment that nothing marks. */
export type StrikePoint = Extract<ProtocolPoint, (typeof points)[Role][number]> | "random";

/** Where each role can be struck: the messages that it sends or waits for. */
const points = {
  decode: [
    "dispatch",
    "after-reserve",
    "first-frame",
    "frame-k",
    "last-frame",
    "complete",
    "first-token",
    "token-j",
    "finish",
    "abort",
    "resume",
    "drain",
  ],
  prefill: ["after-reserve", "first-frame", "frame-k", "last-frame", "complete", "abort-transfer", "resume", "drain"],
  gateway: ["dispatch", "frame-k", "first-token", "token-j", "finish", "abort", "resume", "drain"],
  nats: ["dispatch", "after-reserve", "frame-k", "last-frame", "token-j", "finish", "abort", "resume", "drain"],
} as const satisfies Record<Role, ProtocolPoint[]>;

export interface Strike {
  fault: Fault;
  role: Role;
  point: StrikePoint;
  /** So many sightings of the point go by first. */
  skip: number;
}

export interface PlanOptions {
  faults: readonly Fault[];
  roles: readonly Role[];
  /** Workers may be told to drain, so that something can strike them, or others, meanwhile. */
  drains: boolean;
}

const faultWeights: Record<Fault, number> = { kill: 6, stop: 2, restart: 2 };
const roleWeights: Record<Role, number> = { decode: 5, prefill: 4, gateway: 1.5, nats: 0.7 };
/** One in so many strikes at a random moment. */
const randomShare = 0.15;
const maxSkip = 12;

/** `struck`: how often this strike has been made. Of a role's points the one that was struck least comes next. */
export function nextStrike(random: Random, options: PlanOptions, struck: (strike: Omit<Strike, "skip">) => number): Strike {
  const fault = weighted(random, options.faults, faultWeights);
  const role = weighted(random, options.roles, roleWeights);
  if (random.chance(randomShare)) return { fault, role, point: "random", skip: 0 };
  let best: StrikePoint[] = [];
  let least = Number.POSITIVE_INFINITY;
  for (const point of points[role]) {
    if (point === "drain" && !options.drains) continue;
    const count = struck({ fault, role, point });
    if (count > least) continue;
    if (count < least) best = [];
    least = count;
    best.push(point);
  }
  const point = random.pick(best);
  const repeated = point === "frame-k" || point === "token-j";
  return { fault, role, point, skip: repeated ? random.between(0, maxSkip) : random.between(0, 1) };
}

/** Of the gaps that time is cut into, each with one strike, the one whose strike is due next; `taken` are given away, `passed` are over. Strikes that could not
 * be in their time, as nobody may be struck now and then, are made up for, so many at most. */
export function nextGap(taken: number, passed: number, mostBehind: number): number {
  return Number.isFinite(passed) ? Math.max(taken, Math.floor(passed) - mostBehind) : taken;
}

function weighted<T extends string>(random: Random, items: readonly T[], weights: Record<T, number>): T {
  let left = random.real() * items.reduce((sum, item) => sum + weights[item], 0);
  for (const item of items) {
    left -= weights[item];
    if (left < 0) return item;
  }
  return items[0] as T;
}
