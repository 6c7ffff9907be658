// Sends a planned load and notes what comes of it: an open loop sends when it is time, whatever became of earlier requests; a closed loop when
// one of its clients is free. A session's further turns follow its answers.
import { setMaxListeners } from "node:events";
import { type Message, type Planned, send, type Target } from "./client.ts";
import { NoticeLag } from "./notice-lag.ts";
import { type PromptShape, promptText, type WordCost } from "./prompts.ts";
import { type Uniform, uniform } from "./random.ts";
import type { RequestRecord } from "./record.ts";

/** One session; most have one turn. */
export interface PlannedSession {
  /** null in a closed loop: when a client is free. */
  atMs: number | null;
  turns: { shape: PromptShape; outputTokens: number }[];
}

export interface LoadPlan {
  sessions: PlannedSession[];
  /** In a closed loop. */
  clients: number | null;
  /** How long first turns are sent; null: until the last answer, as clients of a closed loop do. */
  sendingMs: number | null;
  thinkSeconds: number;
  /** Of the requests, so many are left after a part of their answer. */
  cancelShare: number;
  seed: number;
}

/** What comes of it. */
export interface LoadRun {
  records: RequestRecord[];
  /** How late this process noticed what happened, evenly over the run. */
  noticeLagsMs: number[];
  /** The plan's, or until it was stopped. */
  sendingMs: number | null;
}

export interface Progress {
  seconds: number;
  sent: number;
  inFlight: number;
  ended: number;
  failed: number;
}

export interface GeneratorOptions {
  target: Target;
  wordCost: WordCost;
  signal: AbortSignal;
  onProgress: (progress: Progress) => void;
}

/** More at once than this, and the machine measures itself: further requests count as failed. */
const maxInFlight = 20_000;
const progressMs = 1_000;
/** A stop is heard within this time. */
const maxWaitMs = 200;

export async function generate(plan: LoadPlan, { target, wordCost, signal, onProgress }: GeneratorOptions): Promise<LoadRun> {
  setMaxListeners(0, signal);
  const records: RequestRecord[] = [];
  const random: Uniform = uniform(plan.seed + 17);
  let stoppedMs = Number.POSITIVE_INFINITY;
  const noticeLag = new NoticeLag();
  const beganMs = performance.now();
  const nowMs = () => performance.now() - beganMs;
  let sent = 0;
  let inFlight = 0;
  const timer = setInterval(() => {
    const failed = records.filter(({ outcome }) => outcome !== "ok" && outcome !== "cancelled").length;
    onProgress({ seconds: nowMs() / 1000, sent, inFlight, ended: records.length, failed });
  }, progressMs);

  const once = async (planned: Planned) => {
    sent++;
    inFlight++;
    const { text, ...record } = await send(target, planned, nowMs, signal);
    inFlight--;
    records.push(record);
    return { text, record };
  };
  // Texts are made before it is time: a long one must not make its own request late.
  const firstText = ({ turns: [first] }: PlannedSession) => (first === undefined ? "" : promptText(first.shape, wordCost));
  const runSession = async ({ turns }: PlannedSession, session: number, first: string, scheduledMs: number) => {
    const messages: Message[] = [];
    let prompt = first;
    let atMs = scheduledMs;
    for (const [turn, { outputTokens }] of turns.entries()) {
      messages.push({ role: "user", content: prompt });
      const cancelAfter = random() < plan.cancelShare ? 1 + Math.floor((random() * outputTokens) / 2) : null;
      const index = sent;
      const unsent = (from: number, why: string) => {
        for (let left = from; left < turns.length; left++)
          records.push(notSent({ index, session, turn: left, scheduledMs: atMs }, nowMs(), why));
      };
      if (inFlight >= maxInFlight) return unsent(turn, `${maxInFlight} requests are in flight already`);
      const { text, record } = await once({
        index,
        session,
        turn,
        scheduledMs: atMs,
        messages: [...messages],
        maxTokens: outputTokens,
        cancelAfter,
      });
      if (record.outcome === "cancelled" || signal.aborted) return;
      // They were offered: a server that fails first turns does not have fewer requests to fail.
      if (record.outcome !== "ok") return unsent(turn + 1, `turn ${turn + 1} of the conversation failed`);
      messages.push({ role: "assistant", content: text });
      const next = turns[turn + 1];
      if (next === undefined) return;
      prompt = promptText(next.shape, wordCost);
      await until(nowMs() + plan.thinkSeconds * 1000, nowMs, signal);
      atMs = record.endMs + plan.thinkSeconds * 1000;
    }
  };
  const onStop = () => {
    stoppedMs = nowMs();
  };
  signal.addEventListener("abort", onStop);
  let noticeLagsMs: number[];
  try {
    if (plan.clients !== null) {
      const left = [...plan.sessions.entries()];
      const client = async () => {
        for (let next = left.shift(); next !== undefined && !signal.aborted; next = left.shift()) {
          const text = firstText(next[1]);
          await runSession(next[1], next[0], text, nowMs());
        }
      };
      await Promise.all(Array.from({ length: plan.clients }, client));
    } else {
      const running: Promise<void>[] = [];
      for (const [session, planned] of plan.sessions.entries()) {
        const atMs = planned.atMs ?? 0;
        const text = firstText(planned);
        if (!(await until(atMs, nowMs, signal))) break;
        running.push(runSession(planned, session, text, atMs));
      }
      await Promise.all(running);
    }
  } finally {
    clearInterval(timer);
    signal.removeEventListener("abort", onStop);
    noticeLagsMs = noticeLag.stop();
  }
  records.sort((a, b) => a.scheduledMs - b.scheduledMs);
  const sendingMs = plan.sendingMs === null ? null : Math.min(plan.sendingMs, stoppedMs);
  return { records, noticeLagsMs, sendingMs };
}

/** False where the run was stopped. A timer is up to a millisecond late, which counts as lag. */
async function until(atMs: number, nowMs: () => number, signal: AbortSignal): Promise<boolean> {
  for (let left = atMs - nowMs(); left > 0 && !signal.aborted; left = atMs - nowMs()) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(Math.ceil(left), maxWaitMs)));
  }
  return !signal.aborted;
}

function notSent(place: Pick<RequestRecord, "index" | "session" | "turn" | "scheduledMs">, nowMs: number, why: string): RequestRecord {
  return {
    ...place,
    sentMs: place.scheduledMs,
    firstTokenMs: null,
    firstAnswerMs: null,
    lastTokenMs: null,
    endMs: nowMs,
    gapsMs: [],
    promptTokens: 0,
    cachedTokens: 0,
    outputTokens: 0,
    outcome: "unsent",
    status: 0,
    error: why,
  };
}
