// The tree of conditions. Ready stands on Accepted, ModelAvailable, PrefillReady and DecodeReady; Progressing and Degraded stand beside it.
import { shortened } from "../../services/lib/contracts/shortened.ts";
import { type ModelService, type PoolName, poolNames } from "../api/model-service.ts";
import { type Condition, type ConditionType, maxMessageLength } from "../api/status.ts";
import type { Acceptance } from "./acceptance.ts";
import type { Observed, Overruled } from "./observed.ts";
import { claimNotFound } from "./pod-problems.ts";
import type { PoolState } from "./pool-state.ts";
import { decidedReasons, type WantedReplicas } from "./replicas.ts";

/** A condition without what is the same for all. */
export interface Finding {
  status: Condition["status"];
  reason: string;
  message: string;
}

export type Findings = Partial<Record<ConditionType, Finding>>;

export interface PoolFacts {
  state: PoolState;
  wanted: WantedReplicas;
  /** Something of it is to be written in this round. */
  changing: boolean;
}

export interface Facts {
  service: ModelService;
  acceptance: Acceptance;
  pools: Record<PoolName, PoolFacts>;
  claim: string | undefined;
  /** What autoscaling decided last, of both pools. */
  scaling: Observed["scaling"];
  overruled: Overruled[];
}

export function findingsOf(facts: Facts): Findings {
  const accepted: Finding = {
    status: facts.acceptance.accepted ? "True" : "False",
    reason: facts.acceptance.reason,
    message: facts.acceptance.message,
  };
  const model = modelAvailable(facts);
  const prefill = prefillReady(facts);
  const decode = decodeReady(facts);
  const autoscaled = autoscaling(facts);
  const failed = [accepted, model, prefill, decode].find(({ status }) => status !== "True");
  return {
    Ready: failed
      ? { status: failed.status === "Unknown" ? "False" : failed.status, reason: failed.reason, message: failed.message }
      : { status: "True", reason: "Serving", message: "Requests are answered." },
    Accepted: accepted,
    ModelAvailable: model,
    PrefillReady: prefill,
    DecodeReady: decode,
    ...(autoscaled && { Autoscaled: autoscaled }),
    Progressing: progressing(facts),
    Degraded: degraded(facts, accepted, model),
  };
}

function modelAvailable({ service, pools, claim }: Facts): Finding {
  const { pvc, hostPath, image } = service.spec.model;
  const problem = [pools.prefill, pools.decode].map(({ state }) => state.problem).find((each) => each?.ofModel);
  if (pvc !== undefined && claim === "missing") return { status: "False", reason: "ClaimNotFound", message: claimNotFound(pvc.claimName) };
  if (pvc !== undefined && claim === "Lost")
    return {
      status: "False",
      reason: "ClaimLost",
      message: `The volume of PersistentVolumeClaim ${pvc.claimName} is gone. Restore it, or name another claim in spec.model.pvc.claimName.`,
    };
  if (problem !== undefined) return { status: "False", reason: problem.reason, message: problem.message };
  if (pools.prefill.state.ready + pools.decode.state.ready > 0)
    return { status: "True", reason: "Loaded", message: "Workers have loaded it." };
  if (pvc !== undefined && claim === "Bound")
    return { status: "True", reason: "ClaimBound", message: `PersistentVolumeClaim ${pvc.claimName} is bound.` };
  if (pvc !== undefined)
    return {
      status: "Unknown",
      reason: "ClaimPending",
      message: `PersistentVolumeClaim ${pvc.claimName} is not bound yet. If it stays so, see kubectl describe pvc ${pvc.claimName}.`,
    };
  if (image !== undefined || hostPath !== undefined)
    return {
      status: "Unknown",
      reason: "NotLoadedYet",
      message: `No worker has mounted ${image ? `image ${image.reference}` : `folder ${hostPath?.path} of its node`} yet. If it stays so, see the events of the pods.`,
    };
  return { status: "True", reason: "Embedded", message: "It is in the worker image." };
}

function prefillReady(facts: Facts): Finding {
  if (facts.pools.prefill.wanted.desired > 0) return poolReady("prefill", facts);
  return scaledToZero(facts)
    ? { status: "True", reason: "ScaledToZero", message: "No requests for long; the next one wakes the pool." }
    : { status: "True", reason: "NoneWanted", message: "No prefill workers are wanted: decode workers compute prompts themselves." };
}

function decodeReady(facts: Facts): Finding {
  if (facts.pools.decode.wanted.desired > 0) return poolReady("decode", facts);
  return scaledToZero(facts)
    ? { status: "True", reason: "ScaledToZero", message: "No requests for long; the next one wakes the pool." }
    : {
        status: "False",
        reason: "NoneWanted",
        message: `No decode workers are wanted, so nothing answers. ${
          facts.service.spec.autoscaling.policy === "external"
            ? "The external autoscaler, or whoever scaled the workload to 0, must bring them back: an HPA does nothing at 0."
            : "Set spec.pools.decode.replicas to 1 or more."
        }`,
      };
}

function poolReady(pool: PoolName, { acceptance, pools }: Facts): Finding {
  const { state, wanted } = pools[pool];
  if (state.ready > 0) return { status: "True", reason: "WorkersReady", message: `${state.ready} of ${wanted.desired} workers are ready.` };
  if (state.problem !== undefined) return { status: "False", reason: state.problem.reason, message: state.problem.message };
  if (!acceptance.accepted) return { status: "False", reason: acceptance.reason, message: acceptance.message };
  return {
    status: "False",
    reason: "WorkersStarting",
    message: `None of ${wanted.desired} workers is ready yet: they start and load the model. kubectl logs of the pods with pelagic.dev/pool=${pool} shows how far they are.`,
  };
}

function scaledToZero({ service }: Facts): boolean {
  return service.spec.autoscaling.policy === "slo" && service.spec.autoscaling.scaleToZeroAfterSeconds !== undefined;
}

function autoscaling({ service, pools, scaling }: Facts): Finding | undefined {
  const { policy } = service.spec.autoscaling;
  if (policy === "none") return undefined;
  if (policy === "external" && service.spec.slo === undefined)
    return {
      status: "False",
      reason: "NoSlo",
      message:
        "Replicas belong to an external autoscaler, and the operator recommends none: give spec.slo (ttftSeconds, tpotSeconds) to have its number as the metric pelagic_operator_desired_replicas.",
    };
  const blind = poolNames.map((pool) => scaling?.[pool]).find((decision) => decision?.blind);
  if (blind !== undefined)
    return {
      status: "False",
      reason: "NoFigures",
      message: `Pools stay as they are: ${blind.reason}. The operator reads /metrics of gateways and workers, on the port that their pods call metrics; kubectl get pods of the gateway, and NetworkPolicies, say why it cannot.`,
    };
  const reason = decidedReasons[policy];
  if (scaling?.prefill === undefined || scaling.decode === undefined) {
    // A new leader has not looked yet; what the one before decided holds.
    const earlier = service.status?.conditions?.find(({ type }) => type === "Autoscaled");
    if (earlier?.reason === reason) return { status: earlier.status, reason, message: earlier.message };
    return { status: "Unknown", reason: "NoDecisionYet", message: "No decision yet: it needs metrics of the gateway and the workers." };
  }
  const said = poolNames.map(
    (pool) => `${pool} ${pools[pool].wanted.recommended ?? pools[pool].wanted.desired}: ${pools[pool].wanted.reason}`,
  );
  return { status: "True", reason, message: said.join("; ") };
}

function progressing({ acceptance, pools, overruled }: Facts): Finding {
  if (!acceptance.accepted) return { status: "False", reason: acceptance.reason, message: acceptance.message };
  const busy = Object.entries(pools).filter(([, { state, changing }]) => changing || !state.settled);
  const others = overruled.map(({ kind, name, field }) => `${field} of ${kind} ${name}`).join(", ");
  if (busy.length === 0 && others !== "")
    return {
      status: "False",
      reason: "Settled",
      message: `Everything is as wanted but for what is changed while it is written: ${others}. An admission webhook or policy of the cluster does that; exempt the object from it where it should not.`,
    };
  if (busy.length === 0) return { status: "False", reason: "Settled", message: "Everything is as wanted." };
  const said = busy.map(([pool, { state, wanted }]) => {
    const leaving = state.draining > 0 ? `, ${state.draining} finish their requests` : "";
    return `${pool}: ${state.ready} of ${wanted.desired} ready${leaving}`;
  });
  return { status: "True", reason: "Changing", message: `${said.join("; ")}.` };
}

function degraded({ pools }: Facts, accepted: Finding, model: Finding): Finding {
  for (const finding of [accepted, model]) {
    if (finding.status === "False") return { ...finding, status: "True" };
  }
  for (const { state } of Object.values(pools)) {
    if (state.problem !== undefined) return { status: "True", reason: state.problem.reason, message: state.problem.message };
  }
  return { status: "False", reason: "AsWanted", message: "Nothing needs a person." };
}

/** In the order of `types`, each with the time since when its status is what it is; of earlier ones, those that nobody finds any more are gone. */
export function conditionsOf<Type extends string>(
  types: readonly Type[],
  findings: Partial<Record<NoInfer<Type>, Finding>>,
  earlier: Condition[],
  generation: number,
  nowMs: number,
): Condition[] {
  const now = `${new Date(nowMs).toISOString().slice(0, 19)}Z`;
  return types.flatMap((type) => {
    const finding = findings[type];
    if (finding === undefined) return [];
    const before = earlier.find((condition) => condition.type === type);
    return [
      {
        type,
        status: finding.status,
        observedGeneration: generation,
        lastTransitionTime: before?.status === finding.status ? before.lastTransitionTime : now,
        reason: finding.reason,
        message: shortened(finding.message, maxMessageLength),
      },
    ];
  });
}
