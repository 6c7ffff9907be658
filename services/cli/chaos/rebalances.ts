// Tells expert ranks to place their experts otherwise, again and again, in an order drawn from a seed.
import { type Bus, silentLog } from "../../lib/contracts/bus.ts";
import type { ExpertPlan } from "../../lib/contracts/expert-placement.ts";
import { subjects } from "../../lib/contracts/subjects.ts";
import { initialPlan } from "../../lib/engine/ranks/expert-slots.ts";
import { expertShape } from "../../lib/engine/ranks/load.ts";
import { connectBus } from "../../lib/runtime/nats-bus.ts";
import type { Random } from "../../lib/simulator/random.ts";
import { shuffledBy } from "../check-exact-ranks.ts";
import { placeExperts } from "../stack-client.ts";
import type { Stack } from "../stack/stack.ts";
import { sleep } from "./striker.ts";

const pollMs = 100;

export class Rebalances {
  /** Orders that the ranks took, and those that came while they could not: a rank was lost, or another plan on its way. */
  taken = 0;
  refused = 0;
  private readonly bus: Bus;
  private readonly service: string;
  private readonly first: ExpertPlan;
  private readonly random: Random;

  static async connect(stack: Stack, ranks: number, redundantExperts: number, random: Random): Promise<Rebalances> {
    const { user, password } = stack.credentialsFor("gateway");
    const bus = await connectBus({ servers: stack.natsUrl, user, password, name: "rebalances", log: silentLog });
    return new Rebalances(bus, stack.service, initialPlan(await expertShape(stack.model), ranks, redundantExperts), random);
  }

  private constructor(bus: Bus, service: string, first: ExpertPlan, random: Random) {
    this.bus = bus;
    this.service = service;
    this.first = first;
    this.random = random;
  }

  async run(everyMs: number, until: () => boolean): Promise<void> {
    for (let atMs = performance.now() + everyMs; !until(); await sleep(pollMs)) {
      if (performance.now() < atMs) continue;
      atMs += everyMs;
      if (await this.rebalance()) this.taken++;
      else this.refused++;
    }
  }

  /** The lowest rank that lives decides: the others refuse. */
  private async rebalance(): Promise<boolean> {
    const plan = shuffledBy(this.first, (bound) => this.random.between(0, bound - 1));
    for (let rank = 0; rank < plan.rankCount; rank++) {
      try {
        if (await placeExperts(this.bus, subjects(this.service).control(`decode-${rank}`), plan)) return true;
      } catch {
        // It is not there just now.
      }
    }
    return false;
  }

  close(): Promise<void> {
    return this.bus.close();
  }
}
