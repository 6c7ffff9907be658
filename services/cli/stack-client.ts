// This process in the gateway's place on a stack's bus: sends requests to the workers that a measurement names.
import { DispatchClient } from "../gateway/dispatch-client.ts";
import type { Generation, GenerationRequest } from "../gateway/generation.ts";
import { WorkerDirectory } from "../gateway/worker-directory.ts";
import { type Bus, silentLog, systemClock } from "../lib/contracts/bus.ts";
import type { ExpertPlan } from "../lib/contracts/expert-placement.ts";
import { ControlReply } from "../lib/contracts/messages.ts";
import { packSlots } from "../lib/contracts/ranks.ts";
import { decodeMessage, encodeMessage } from "../lib/contracts/wire.ts";
import { subjects } from "../lib/contracts/subjects.ts";
import { connectBus } from "../lib/runtime/nats-bus.ts";
import { CliError } from "./cli-error.ts";
import type { Stack } from "./stack/stack.ts";

export interface StackClient {
  /** Asks this decode worker and no other; prefillWorkerId null: it prefills itself. */
  start(request: GenerationRequest, decodeWorkerId: string, prefillWorkerId: string | null): Generation;
  /** Tells the lowest of the stack's decode ranks to place experts so. False: it does not do so now. */
  placeExperts(plan: ExpertPlan): Promise<boolean>;
  close(): Promise<void>;
}

/** The stack's workers are ready: they say so within moments. */
const knownBoundMs = 10_000;
const pollMs = 20;
const answerMs = 5_000;

/** For a stack without gateways. Resolves when all its decode workers are known. */
export async function connectStackClient(stack: Stack, name: string): Promise<StackClient> {
  const { user, password, processId } = stack.credentialsFor("gateway");
  const bus = await connectBus({ servers: stack.natsUrl, user, password, name, log: silentLog });
  const common = { bus, clock: systemClock, subjects: subjects(stack.service), log: silentLog };
  const client = new DispatchClient({ ...common, gatewayId: processId, leaseMs: 10_000, resumeWaitMs: 10_000 });
  const directory = new WorkerDirectory({ ...common, onGone: (instance) => client.workerGone(instance) });
  const close = async () => {
    directory.close();
    await bus.close();
  };
  const instanceOf = (workerId: string) => directory.snapshot().workers.find((worker) => worker.workerId === workerId)?.instanceId;
  const decodeWorkers = stack.processes.map((process) => process.name).filter((process) => process.startsWith("decode-"));
  for (const endMs = performance.now() + knownBoundMs; !decodeWorkers.every((worker) => instanceOf(worker) !== undefined); ) {
    if (performance.now() > endMs) {
      await close();
      throw new CliError(`${decodeWorkers.join(", ")}: not all of them said that they are there within ${knownBoundMs / 1000} s`);
    }
    await new Promise((resolve) => setTimeout(resolve, pollMs));
  }
  return {
    start: (request, decodeWorkerId, prefillWorkerId) =>
      client.start(request, {
        choose: (_, excluded) => {
          const instanceId = instanceOf(decodeWorkerId);
          return instanceId === undefined || excluded.has(instanceId) ? null : { workerId: decodeWorkerId, instanceId, prefillWorkerId };
        },
        shouldMove: () => false,
      }),
    placeExperts: (plan) => placeExperts(bus, common.subjects.control("decode-0"), plan),
    close,
  };
}

/** Orders the rank at this subject to place experts so. False: it does not do so now. Rejects where nothing answers. */
export async function placeExperts(bus: Bus, subject: string, { rankCount, slotsPerRank, layers }: ExpertPlan): Promise<boolean> {
  const order = { kind: "place-experts", rankCount, slotsPerRank, layerCount: layers.length };
  return decodeMessage(ControlReply, await bus.request(subject, encodeMessage(order, packSlots({ layers })), answerMs)).body.ok;
}
