// A model of which this process has the experts of one rank, as a runner that has met the other ranks.
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { type Bus, type Log, randomId, systemClock } from "../../contracts/bus.ts";
import { ExpertPlan } from "../../contracts/expert-placement.ts";
import type { RankStatus } from "../../contracts/rank-status.ts";
import { subjects } from "../../contracts/subjects.ts";
import { modelDigest } from "../model-digest.ts";
import { loadNativeRunner } from "../model-runner.ts";
import type { LoadOptions } from "../native.ts";
import type { RankConfig, WorkerConfig } from "../worker-config.ts";
import { type ExpertShape, indispensableRanks, initialPlan, missingExpert, planDigest } from "./expert-slots.ts";
import { groupBalancedness } from "./group-balance.ts";
import { GroupLoad } from "./group-load.ts";
import { RankedRunner } from "./ranked-runner.ts";
import { RankMember } from "./rank-member.ts";

/** The others may still be loading. */
const firstMeetingMs = 240_000;

/** Resolves when the ranks have met for the first time. `watch` is told how to ask what this rank knows of its group, before they have. */
export async function loadRankedRunner(
  options: LoadOptions,
  config: WorkerConfig & RankConfig & { service: string },
  bus: Bus,
  log: Log,
  watch: (status: () => RankStatus) => void,
): Promise<RankedRunner> {
  const { rank, rankCount, rankHost: host } = config;
  if (rank >= rankCount) throw new Error(`rank is ${rank} of ${rankCount}: ranks are counted from 0`);
  const plan = config.expertPlan
    ? await readPlan(config.expertPlan)
    : initialPlan(await expertShape(config.model), rankCount, config.redundantExperts);
  const secret = randomBytes(32);
  let member: RankMember | undefined;
  const runner = await loadNativeRunner({
    ...options,
    ranks: {
      rank,
      plan,
      ranksPerNode: config.ranksPerNode ?? rankCount,
      localFirst: config.localExperts,
      host,
      port: config.rankPort,
      secret,
      onLost: (message) => {
        if (member?.round !== undefined) member.lost(member.round, message);
      },
    },
  });
  const group = config.rankGroup ?? config.modelName ?? basename(config.model);
  const ranked = new RankedRunner(runner, group);
  const named = subjects(config.service);
  const digest = await modelDigest(config.model);
  const { moeLayerCount: moeLayers, logicalExpertCount: logicalExperts } = runner.info;
  const load = new GroupLoad({
    bus,
    clock: systemClock,
    subject: named.allLoads,
    rankGroup: group,
    modelDigest: digest,
    moeLayers,
    logicalExperts,
  });
  member = new RankMember({
    bus,
    clock: systemClock,
    log,
    subject: named.ranks(config.workerId),
    subjects: named.allRanks,
    own: {
      group,
      sharedDigest: createHash("sha256")
        .update(JSON.stringify([digest, plan]))
        .digest("hex"),
      rank,
      rankCount,
      instanceId: randomId(8),
      host,
      port: runner.rankPort as number,
      secret: secret.toString("hex"),
    },
    whyNot: (isThere) => {
      const missing = missingExpert(plan, isThere);
      return missing && `nobody else has expert ${missing.expert} of MoE layer ${missing.layer}`;
    },
    meet: (meeting) => ranked.exclusive(() => runner.meet(meeting)),
    onLead: (leads) => load.listen(leads),
  });
  ranked.setMember(member);
  ranked.balancedness = () => {
    const there = new Set(member.members);
    return load.window && groupBalancedness(plan, (each) => there.has(each), load.window.late());
  };
  const planInForce = { version: plan.version, digest: planDigest(plan) };
  watch(() => {
    const { members, groups: history, reason = null } = member;
    const there = new Set(members);
    return {
      ...{ group, rank, rankCount, members, reason, history },
      plan: planInForce,
      indispensable: indispensableRanks(plan, (each) => there.has(each)),
      computedRows: ranked.counters.computedRows,
    };
  });
  try {
    await member.joined(firstMeetingMs);
  } catch (error) {
    await ranked.close();
    throw error;
  }
  return ranked;
}

async function readPlan(file: string): Promise<ExpertPlan> {
  const parsed = ExpertPlan.safeParse(JSON.parse(await readFile(file, "utf8")));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Error(`${file}: ${issue?.path.join(".")}: ${issue?.message}`);
}

async function expertShape(dir: string): Promise<ExpertShape> {
  const path = join(dir, "config.json");
  const count = z.number().int();
  const fields = z.object({ num_hidden_layers: count, first_k_dense_replace: count, n_routed_experts: count.positive() });
  const parsed = fields.safeParse(JSON.parse(await readFile(path, "utf8")));
  if (!parsed.success) throw new Error(`${path}: ${parsed.error.issues[0]?.path.join(".")}: ranks share experts, and the model needs some`);
  const { num_hidden_layers, first_k_dense_replace, n_routed_experts } = parsed.data;
  return { moeLayers: num_hidden_layers - first_k_dense_replace, logicalExperts: n_routed_experts };
}
