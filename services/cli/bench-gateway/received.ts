// One streamed answer as it arrived: what was read when, and what it says. Read while the stream runs, understood afterwards.
import { CliError } from "../cli-error.ts";

export interface Arrival {
  atMs: number;
  /** Bytes of the body so far. */
  bytes: number;
}

export interface Answer {
  text: string;
  finishReason: string | null;
  /** When each piece of text arrived. */
  pieceMs: number[];
  done: boolean;
}

interface Chunk {
  choices?: { delta?: { content?: string }; finish_reason?: string | null }[];
  error?: { message?: string };
}

/** An event came with the first read that had all of it. Throws where the stream carries an error. */
export function readAnswer(body: Buffer, arrivals: readonly Arrival[]): Answer {
  const answer: Answer = { text: "", finishReason: null, pieceMs: [], done: false };
  let arrival = 0;
  for (let from = 0; ; ) {
    const end = body.indexOf("\n\n", from);
    if (end < 0) return answer;
    const data = body.toString("utf8", from, end).replace(/^data: /, "");
    from = end + 2;
    if (data === "[DONE]") {
      answer.done = true;
      continue;
    }
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new CliError(`an error in the stream: ${chunk.error.message ?? data}`);
    const choice = chunk.choices?.[0];
    answer.finishReason = choice?.finish_reason ?? answer.finishReason;
    if (!choice?.delta?.content) continue;
    while (arrival + 1 < arrivals.length && (arrivals[arrival]?.bytes ?? 0) < from) arrival++;
    answer.text += choice.delta.content;
    answer.pieceMs.push(arrivals[arrival]?.atMs ?? Number.NaN);
  }
}
