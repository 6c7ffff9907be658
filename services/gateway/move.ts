// Whether a request on a draining worker moves to a peer or ends where it is: whichever is sooner, if a peer takes it. Pure.
import type { WorkerView } from "./state-view.ts";

/** Of a worker that has not measured its own: a slow step and a slow network, so that only short ends stay. */
const defaultStepSeconds = 0.02;
const defaultTransferBytesPerSecond = 100e6;
/** Stopping here, dispatching there, asking for the blocks. */
const handoverSeconds = 0.05;

/** Whether the worker surely takes a request, whoever's it is: a tenant may fill most of its queue (lib/fair-queue); half leaves room for other gateways. */
export function takesOneMore({ requests, unreported }: Pick<WorkerView, "requests" | "unreported">): boolean {
  return requests.waiting + unreported.requests < requests.maxWaiting / 2;
}

/**
 * `remainingTokens` is what the request may still generate, an upper bound: an answer that would stop sooner is moved needlessly, which
 * costs a pause, where the other mistake would hold up the drain.
 */
export function quickerToMove(
  from: Pick<WorkerView, "rates" | "kvBytesPerToken">,
  request: { uncachedTokens: number; remainingTokens: number },
): boolean {
  const finishSeconds = request.remainingTokens * (from.rates.decodeStepSeconds || defaultStepSeconds);
  const bytes = request.uncachedTokens * from.kvBytesPerToken;
  return finishSeconds > handoverSeconds + bytes / (from.rates.transferBytesPerSecond || defaultTransferBytesPerSecond);
}
