// A model of which this process has the experts of one rank, as a runner that has met the other ranks.
import { createHash, randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { type Bus, type Log, randomId, systemClock } from "../../contracts/bus.ts";
import { ExpertPlan } from "../../contracts/expert-placement.ts";
import { maxReasonCharacters, type RankStatus } from "../../contracts/rank-status.ts";
import { shortened } from "../../contracts/shortened.ts";
import { subjects } from "../../contracts/subjects.ts";
import { modelDigest } from "../model-digest.ts";
import { endIfDeviceFailed, loadNativeRunner } from "../model-runner.ts";
import { engineFiles, type LoadOptions } from "../native.ts";
import type { RankConfig, WorkerConfig } from "../worker-config.ts";
import { type ExpertShape, indispensableRanks, initialPlan, isWhole, mostRedundantSlots, planDigest } from "./expert-slots.ts";
import { groupBalancedness } from "./group-balance.ts";
import { GroupLoad } from "./group-load.ts";
import { RankedRunner } from "./ranked-runner.ts";
import { RankMember } from "./rank-member.ts";
import { type Planner, Rebalancer } from "./rebalancer.ts";

/** The others may still be loading. */
const firstMeetingMs = 240_000;

/** Slots of a rank, in those that it begins with: how far it may make up for ranks that are lost. */
const mostSlotsFactor = 2;

/** Resolves when the ranks have met for the first time. `watch` is told how to ask what this rank knows of its group, before they have. */
export async function loadRankedRunner(
  options: LoadOptions,
  config: WorkerConfig & RankConfig & { service: string },
  bus: Bus,
  log: Log,
  planner: Planner,
  watch: (status: () => RankStatus) => void,
): Promise<RankedRunner> {
  const { rank, rankCount, rankHost: host } = config;
  if (rank >= rankCount) throw new Error(`rank is ${rank} of ${rankCount}: ranks are counted from 0`);
  const plan = config.expertPlan ? await readPlan(config.expertPlan) : await planInOrder(config);
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
      onLost: (error) => {
        endIfDeviceFailed(error);
        member?.lost(member.round, error);
      },
    },
  });
  const group = config.rankGroup ?? config.modelName ?? basename(config.model);
  const ranked = new RankedRunner(runner, group);
  const named = subjects(config.service);
  const digest = await modelDigest(config.model);
  const engine = await filesDigest(engineFiles(options.backend ?? "cpu"));
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
    planSubject: named.plans(config.workerId),
    planSubjects: named.allPlans,
    mostSlotsPerRank: mostSlotsFactor * plan.slotsPerRank,
    own: {
      group,
      sharedDigest: sharedDigest(digest, engine, options),
      rank,
      rankCount,
      instanceId: randomId(8),
      host,
      port: runner.rankPort as number,
      secret: secret.toString("hex"),
    },
    experts: {
      get placementState() {
        return runner.placementState;
      },
      get planInForce() {
        return runner.planInForce;
      },
      conform: (next) => ranked.exclusive(() => runner.conform(next)),
      stage: (next) => runner.stagePlan(next, config.expertLoadMibPerSecond * 1024 * 1024),
      // A new process may have what this one cannot get; its requests go on elsewhere.
      fail: (error) =>
        queueMicrotask(() => {
          throw error;
        }),
    },
    meet: (meeting) => ranked.exclusive(() => runner.meet(meeting)),
    onLead: (leads) => load.listen(leads),
  });
  const rebalancer =
    config.rebalanceSeconds === 0
      ? undefined
      : new Rebalancer({
          clock: systemClock,
          log,
          member,
          load,
          planInForce: () => runner.planInForce,
          planner,
          everyMs: config.rebalanceSeconds * 1000,
          slotsPerRank: plan.slotsPerRank,
        });
  ranked.setMember(member, () => rebalancer?.stop());
  ranked.balancedness = () => {
    const there = new Set(member.members);
    return load.window && groupBalancedness(runner.planInForce, (each) => there.has(each), load.window.late());
  };
  watch(() => {
    const { members } = member;
    const reason = cut(member.reason ?? null);
    const history = member.groups.map((group) => ({ ...group, loss: cut(group.loss) }));
    const there = new Set(members);
    const { planInForce: inForce, placementState } = runner;
    const { loadedExperts: experts, loadedBytes: bytes } = placementState;
    const hasLoad = load.window?.late().some((count) => count > 0) ?? false;
    const balance = hasLoad ? ranked.balancedness() : undefined;
    return {
      ...{ group, rank, rankCount, members, reason, history },
      plan: { version: inForce.version, digest: planDigest(inForce), whole: isWhole(inForce, placementState) },
      loaded: { experts, bytes },
      indispensable: indispensableRanks(inForce, (each) => there.has(each)),
      balancedness: balance ? balance.reduce((sum, each) => sum + each, 0) / balance.length : null,
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

/**
 * Of what experts are made from and into, and by what: only ranks with equal ones meet, since rows of one are computed by another. The engine's files
 * stand for its numerics id, which nobody can measure before ranks have met.
 */
export function sharedDigest(
  modelDigest: string,
  engineDigest: string,
  { backend = "cpu", weightDtype = "bfloat16" }: Pick<LoadOptions, "backend" | "weightDtype">,
): string {
  return createHash("sha256").update([modelDigest, engineDigest, backend, weightDtype].join(" ")).digest("hex");
}

async function filesDigest(files: readonly string[]): Promise<string> {
  const all = createHash("sha256");
  for (const file of files)
    all.update(
      createHash("sha256")
        .update(await readFile(file))
        .digest(),
    );
  return all.digest("hex");
}

function cut(reason: string | null): string | null {
  return reason === null ? null : shortened(reason, maxReasonCharacters);
}

async function planInOrder({ model, rankCount, redundantExperts }: WorkerConfig & RankConfig): Promise<ExpertPlan> {
  const shape = await expertShape(model);
  const most = mostRedundantSlots(shape, rankCount);
  if (redundantExperts > most)
    throw new Error(
      `redundantExperts is ${redundantExperts}: with ${most} each of ${rankCount} ranks has all ${shape.logicalExperts} experts`,
    );
  return initialPlan(shape, rankCount, redundantExperts);
}

async function readPlan(file: string): Promise<ExpertPlan> {
  const parsed = ExpertPlan.safeParse(JSON.parse(await readFile(file, "utf8")));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Error(`${file}: ${issue?.path.join(".")}: ${issue?.message}`);
}

/** Throws naming the field of config.json that is missing. */
export async function expertShape(dir: string): Promise<ExpertShape> {
  const path = join(dir, "config.json");
  const count = z.number().int();
  const fields = z.object({ num_hidden_layers: count, first_k_dense_replace: count, n_routed_experts: count.positive() });
  const parsed = fields.safeParse(JSON.parse(await readFile(path, "utf8")));
  if (!parsed.success) throw new Error(`${path}: ${parsed.error.issues[0]?.path.join(".")}: ranks share experts, and the model needs some`);
  const { num_hidden_layers, first_k_dense_replace, n_routed_experts } = parsed.data;
  return { moeLayers: num_hidden_layers - first_k_dense_replace, logicalExperts: n_routed_experts };
}
