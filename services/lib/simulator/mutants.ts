// One-line bugs of the protocol. Each is put into a copy of the compiled code, and the simulation must fail on it: a check that cannot fail
// checks nothing. `find` must occur exactly once in the compiled file.

import type { ProtocolPoint } from "./protocol-points.ts";
import type { FaultKind } from "./scenario.ts";

export interface Mutant {
  name: string;
  /** Under services/, as compiled. */
  file: string;
  find: string;
  replace: string;
  /** The fault that shows it soonest: seeds that begin with it are tried first. */
  aim?: { point: ProtocolPoint; kind: FaultKind };
}

const receiver = "lib/engine/transfer-receiver.js";
const sender = "lib/engine/transfer-sender.js";
const decode = "lib/engine/decode-worker.js";
const fetcher = "lib/engine/row-fetcher.js";
const rows = "lib/engine/row-server.js";
const credits = "lib/engine/credit-budget.js";
const engine = "lib/engine/engine.js";
const generation = "gateway/generation.js";
const router = "gateway/router.js";
const view = "gateway/state-view.js";

export const mutants: readonly Mutant[] = [
  {
    name: "a frame's checksum is not looked at",
    file: receiver,
    find: "if (!this.runner.unpackFrame(layer, block, firstRow % kvBlockTokens, rowCount, frame))",
    replace: "if (!this.runner.unpackFrame(layer, block, firstRow % kvBlockTokens, rowCount, frame) && false)",
    aim: { point: "frame-k", kind: "corrupt" },
  },
  {
    name: "a message's checksum is not looked at",
    file: "lib/contracts/wire.js",
    find: "if (checksum(data, length) !== head.getUint32(4, true))",
    replace: "if (false)",
  },
  {
    name: "a layer more than the others counts as whole",
    file: receiver,
    find: "Math.min(...this.nextRow)",
    replace: "Math.max(...this.nextRow)",
  },
  {
    name: "a repeated frame is not recognised",
    file: receiver,
    find: "if (header.sequence < this.frames)",
    replace: "if (false)",
    aim: { point: "frame-k", kind: "duplicate" },
  },
  {
    name: "a frame that comes too early is taken for the next",
    file: receiver,
    find: "if (header.sequence > this.frames)",
    replace: "if (false)",
    aim: { point: "frame-k", kind: "loss" },
  },
  {
    name: "frames are sent again from the one after the lost",
    file: sender,
    find: "this.sentFrames = fromFrame;",
    replace: "this.sentFrames = fromFrame + 1;",
    aim: { point: "frame-k", kind: "loss" },
  },
  {
    name: "one frame more than arrived is forgotten",
    file: rows,
    find: "transfer.sender.acknowledge(body.receivedFrames);",
    replace: "transfer.sender.acknowledge(body.receivedFrames + 1);",
    aim: { point: "frame-k", kind: "loss" },
  },
  { name: "a received frame gives no credit back", file: credits, find: "this.outstanding -= bytes;", replace: "" },
  {
    name: "a transfer that ends gives no credit back",
    file: credits,
    find: "this.outstanding -= grant.granted - grant.received;",
    replace: "",
  },
  { name: "credit is granted beyond the rest", file: credits, find: "grant.granted += raise;", replace: "grant.granted += 2 * raise;" },
  {
    name: "the sender frees when it has computed, not when all has arrived",
    file: rows,
    find: 'if (end.kind === "error")',
    replace: 'if (end.kind === "rows-done") this.free(id, new PelagicError("cancelled", "done")); else',
    aim: { point: "credit", kind: "delay" },
  },
  {
    name: "the transfer counts as complete with its first frame",
    file: fetcher,
    find: "if (!transfer.receiver.complete)",
    replace: "if (false)",
  },
  {
    name: "rows of a transfer that was given up count as whole",
    file: fetcher,
    find: "this.next(fetch, rows);",
    replace: "this.next(fetch, transfer.source.endRow);",
  },
  { name: "nobody stops listening for frames", file: fetcher, find: "transfer.unsubscribe();", replace: "" },
  {
    name: "nobody stops listening for credits",
    file: rows,
    find: "transfer.unsubscribe();",
    replace: "",
  },
  {
    name: "a request that ends leaves its transfer open",
    file: decode,
    find: "onEngineEnd(attempt, end) {\n        this.fetcher.stop(attempt.dispatch.attemptId);",
    replace: "onEngineEnd(attempt, end) {",
    aim: { point: "abort-transfer", kind: "delay" },
  },
  {
    name: "the gateway's lease never runs out",
    file: decode,
    find: "if (now > attempt.leaseUntilMs &&",
    replace: "if (false && now > attempt.leaseUntilMs &&",
    aim: { point: "token-j", kind: "crash" },
  },
  {
    name: "the receiver's lease never runs out",
    file: rows,
    find: "if (now > transfer.leaseUntilMs &&",
    replace: "if (false && now > transfer.leaseUntilMs &&",
    aim: { point: "frame-k", kind: "crash" },
  },
  {
    name: "a dispatch that comes twice is admitted twice",
    file: decode,
    find: "if (!this.attempts.has(body.attemptId))",
    replace: "if (true)",
    aim: { point: "dispatch-reply", kind: "loss" },
  },
  {
    name: "deltas are numbered from the resume",
    file: decode,
    find: "from: attempt.firstIndex + from,",
    replace: "from,",
    aim: { point: "resume", kind: "delay" },
  },
  {
    name: "a resend counts from the resume",
    file: decode,
    find: "Math.max(0, message.from - attempt.firstIndex)",
    replace: "Math.max(0, message.from)",
    aim: { point: "resume", kind: "crash" },
  },
  {
    name: "a cancelled request keeps its blocks",
    file: engine,
    find: 'if (entry.phase !== "waiting")\n            this.blocks.close(id);',
    replace: 'if (entry.phase !== "waiting" && end.kind !== "error")\n            this.blocks.close(id);',
  },
  {
    name: "a preempted request keeps its blocks",
    file: engine,
    find: 'this.blocks.close(id);\n            entry.phase = "waiting";',
    replace: 'entry.phase = "waiting";',
  },
  {
    name: "a cache hit may cover the last row",
    file: engine,
    find: 'entry.mode === "rows" ? entry.length : entry.length - 1',
    replace: "entry.length",
  },
  {
    name: "penalties forget the tokens before a resume",
    file: engine,
    find: "outputTokens: entry.tokens.subarray(request.promptLength, entry.length)",
    replace: "outputTokens: entry.tokens.subarray(request.tokens.length, entry.length)",
    aim: { point: "resume", kind: "delay" },
  },
  {
    name: "a block's name leaves most of its tokens out",
    file: "lib/contracts/block-key.js",
    find: "length += 4 * kvBlockTokens;",
    replace: "length += 8;",
  },
  {
    name: "a delta that overlaps is taken whole",
    file: generation,
    find: "for (let i = this.received - delta.from;",
    replace: "for (let i = 0;",
  },
  {
    name: "deltas behind a gap are taken before it",
    file: generation,
    find: "if (from > this.received)\n                return;",
    replace: "",
    aim: { point: "token-j", kind: "loss" },
  },
  {
    name: "a delta behind a gap is taken at once",
    file: generation,
    find: "if (delta.from > this.received) {",
    replace: "if (false) {",
    aim: { point: "token-j", kind: "loss" },
  },
  {
    name: "the gateway asks again from the token after the missing one",
    file: generation,
    find: "from: this.received, most, replySubject",
    replace: "from: this.received + 1, most, replySubject",
  },
  {
    name: "a resumed request's prompt is all it has",
    file: generation,
    find: "promptLength: prompt.length,",
    replace: "promptLength: known.length,",
  },
  {
    name: "a lost worker's request is not sent elsewhere",
    file: generation,
    find: "this.goElsewhere(reason, null);",
    replace: "",
  },
  {
    name: "the gateway listens on after an attempt",
    file: generation,
    find: "this.client.unlisten(this.attemptId);",
    replace: "",
  },
  {
    name: "an answer goes on wherever there is room, whatever its bits",
    file: router,
    find: "request.identity !== null && cacheIdentityOf(decode) !== request.identity",
    replace: "false",
    aim: { point: "token-j", kind: "crash" },
  },
  {
    name: "a worker is asked for more positions than it has",
    file: router,
    find: "request.promptTokens + request.maxTokens > decode.maxPositions",
    replace: "false",
  },
  { name: "evicted blocks stay in the router's view", file: view, find: "keys.delete(key);", replace: "" },
  {
    name: "a gap in block events goes unnoticed",
    file: view,
    find: "if (state.position - state.stored.length - state.removed.length !== known)",
    replace: "if (false)",
    aim: { point: "state", kind: "loss" },
  },
  {
    name: "a block's name leaves the tenant out",
    file: "lib/contracts/block-key.js",
    find: ", cacheSalt])",
    replace: "])",
  },
  {
    name: "a block's name leaves the blocks before it out",
    file: "lib/contracts/block-key.js",
    find: "block === 0 ? root : keys[block - 1]",
    replace: "root",
  },
  {
    name: "a block is named before it is whole",
    file: engine,
    find: "Math.floor(entry.computedRows / kvBlockTokens)",
    replace: "Math.ceil(entry.computedRows / kvBlockTokens)",
  },
  {
    name: "a client that leaves is not cancelled",
    file: generation,
    find: "if (cancelAtDecode && workerId !== null)",
    replace: "if (false)",
  },
  {
    name: "the end of an answer is not acknowledged",
    file: generation,
    find: "this.client.acknowledge(this.workerId, this.attemptId);",
    replace: ";",
  },
  {
    name: "credit is granted beyond the budget",
    file: credits,
    find: ", this.budgetBytes - this.outstanding)",
    replace: ")",
  },
  {
    name: "credits add up",
    file: sender,
    find: "this.granted = grantedBytes;\n        this.send",
    replace: "this.granted += grantedBytes;\n        this.send",
  },
  { name: "frames are sent without credit", file: sender, find: "place.bytesBefore + place.payloadBytes > this.granted", replace: "false" },
  {
    name: "what is over begins again",
    file: "lib/engine/recent-ids.js",
    find: "return this.ids.has(id);",
    replace: "return false;",
    aim: { point: "dispatch", kind: "duplicate" },
  },
  {
    name: "a sender does not go on after an outage",
    file: rows,
    find: "for (const transfer of this.transfers.values()) {\n            transfer.leaseUntilMs",
    replace: "for (const transfer of []) {\n            transfer.leaseUntilMs",
  },
  {
    name: "a full peer takes one more",
    file: "gateway/move.js",
    find: "return requests.waiting + unreported.requests < requests.maxWaiting / 2;",
    replace: "return true;",
  },
  {
    name: "a move takes no place",
    file: "gateway/request-routing.js",
    find: "this.directory.view.noteDispatched(to.decode.workerId, { requests: 1, blocks: 0, prefillTokens: 0 });",
    replace: "",
  },
  {
    name: "a worker takes what was meant for the process before it",
    file: decode,
    find: "body.instanceId !== this.core.instanceId",
    replace: "false",
    aim: { point: "resume", kind: "crash" },
  },
  {
    name: "a fetch that is stopped is remembered",
    file: fetcher,
    find: "this.fetches.delete(id);",
    replace: "",
    aim: { point: "abort-transfer", kind: "delay" },
  },
  {
    name: "cached rows stand for rows that are to be scored",
    file: engine,
    find: "scoredRows(entry) > 0 ? entry.scoreRow : rows",
    replace: "rows",
  },
  {
    name: "an answer does not wait for its prompt's scores",
    file: generation,
    find: "const mayGo = !this.lacksScores;",
    replace: "const mayGo = true;",
  },
];
