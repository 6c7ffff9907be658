// A model that computes nothing: every call is one step of the clock, and every row that is sampled gives the token that its answer has there.
import type { ModelRunner, RunResult, SampledToken, SequenceWork } from "../../lib/engine/model-runner.ts";
import { answerToken } from "./answer.ts";
import type { StepClock } from "./step-clock.ts";

const nothingMoves = (): never => {
  throw new Error("a stub has no latents to move");
};

export class StubRunner implements ModelRunner {
  readonly info;
  readonly rowBytes = 2;
  readonly packRows = nothingMoves;
  readonly packFrame = nothingMoves;
  readonly unpackFrame = nothingMoves;
  readonly xxh64 = nothingMoves;
  private readonly plain: Uint32Array;
  private readonly clock: StepClock;

  constructor(plain: Uint32Array, vocabSize: number, maxPositionEmbeddings: number, clock: StepClock) {
    this.info = { layerCount: 1, latentWidth: 1, vocabSize, maxPositionEmbeddings };
    this.plain = plain;
    this.clock = clock;
  }

  async run(work: readonly SequenceWork[]): Promise<RunResult[]> {
    await this.clock.next();
    const sequences = work.map((sequence) => {
      const sampled = this.sample(sequence);
      return { digests: [], ...(sampled && { sampled }) };
    });
    return [{ sequences, expertCounts: new Uint32Array(0) }];
  }

  async close(): Promise<void> {}

  private sample({ tokens, firstRow, promptLength, sampling }: SequenceWork): SampledToken | undefined {
    if (sampling === null) return undefined;
    const seed = Number(BigInt.asUintN(32, sampling.seed));
    const token = answerToken(this.plain, seed, firstRow + tokens.length - promptLength);
    const top = Array.from({ length: sampling.logprobs ?? 0 }, (_, i): [number, number] => [this.plain[i] as number, -1 - i / 3]);
    return { token, logprob: -1, rank: 0, top };
  }
}
