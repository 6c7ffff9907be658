// What the bench and its two processes say to each other, over their IPC channel.

export interface PeerSetup {
  role: "prefill" | "decode";
  natsUrl: string;
  user: string;
  password: string;
  modelDir: string;
  kvBlocks: number;
  /** The cache's contents: both sides must end with the sender's. */
  fill: number;
}

/** One transfer of `rows` rows of every layer, or the same bytes as bare messages. */
export interface Job {
  kind: "product" | "bare";
  id: string;
  rows: number;
  frameBytes: number;
  totalBytes: number;
  budgetBytes: number;
  /** The receiver stops reading for so long, each time that so many bytes have arrived. */
  stall?: { everyBytes: number; ms: number };
}

/** From parent to peer. A job is prepared first, then begun by the receiver. */
export type PeerOrder =
  | { order: "setup"; setup: PeerSetup }
  | { order: "prepare"; job: Job }
  | { order: "begin" }
  | { order: "digest" }
  | { order: "quit" };

export type PeerReport =
  | { report: "ready" }
  | { report: "prepared" }
  | { report: "done"; seconds: number; bytes: number; credits: number }
  | { report: "digest"; digest: string }
  | { report: "failed"; reason: string };

export const benchService = "bench";
export const senderId = "prefill-0";
export const receiverId = "decode-0";
