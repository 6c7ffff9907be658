// Every subject on the bus. A service is one running Pelagic; several may share a NATS server.
// Least privilege follows from these: see services/lib/runtime/nats-permissions.ts.

const token = /^[A-Za-z0-9_-]+$/;

function part(value: string, what: string): string {
  if (!token.test(value)) throw new Error(`${what} ${JSON.stringify(value)} cannot be part of a subject: letters, digits, - and _ only`);
  return value;
}

export function subjects(service: string) {
  const root = `pelagic.${part(service, "service name")}`;
  return {
    /** Gateway to one decode worker: a Dispatch, answered by a DispatchReply. */
    dispatch: (workerId: string) => `${root}.dispatch.${part(workerId, "worker id")}`,
    /** To one worker: Control, answered where it says so. */
    control: (workerId: string) => `${root}.control.${part(workerId, "worker id")}`,
    /** Gateway to one worker: a FilesRequest for its model's small files, answered by a FilesReply. */
    files: (workerId: string) => `${root}.files.${part(workerId, "worker id")}`,
    /** Decode to one worker, of either role: a RowsRequest, answered by a RowsReply. */
    rows: (workerId: string) => `${root}.rows.${part(workerId, "worker id")}`,
    /** Sender to receiver: a transfer lives, or has failed. */
    notices: (decodeId: string) => `${root}.notices.${part(decodeId, "worker id")}`,
    /** Each worker's state: numbered deltas and snapshots. */
    state: (workerId: string) => `${root}.state.${part(workerId, "worker id")}`,
    allStates: `${root}.state.*`,
    /** Each worker's ExpertLoads. */
    loads: (workerId: string) => `${root}.loads.${part(workerId, "worker id")}`,
    allLoads: `${root}.loads.*`,
    /** What ranks that share experts say of themselves to each other: RankNotices. */
    ranks: (workerId: string) => `${root}.ranks.${part(workerId, "worker id")}`,
    allRanks: `${root}.ranks.*`,
    /** The expert plans that they go by, or are to go to: PlanNotices. */
    plans: (workerId: string) => `${root}.plans.${part(workerId, "worker id")}`,
    allPlans: `${root}.plans.*`,
    /** A gateway that starts, or saw a gap, asks all workers for a snapshot here. */
    stateRequest: `${root}.state-request`,
    /** Decode to one gateway: Deltas. An inbox of each process: what was meant for an earlier one finds no subscriber. */
    deltas: (gatewayId: string, inboxId: string) => `${root}.deltas.${part(gatewayId, "gateway id")}.${part(inboxId, "inbox id")}`,
    /** Sender to receiver: the frames of one transfer. A fresh id each attempt, so a late frame finds no subscriber. */
    frames: (decodeId: string, transferId: string) => `${root}.kv.${part(decodeId, "worker id")}.${part(transferId, "transfer id")}`,
    /** Receiver to sender: credits and the end of one transfer. */
    credit: (senderId: string, transferId: string) => `${root}.credit.${part(senderId, "worker id")}.${part(transferId, "transfer id")}`,
  };
}

export type Subjects = ReturnType<typeof subjects>;
