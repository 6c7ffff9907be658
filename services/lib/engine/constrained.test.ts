// A request that does not know yet what may come next holds nobody else up, and goes on when it knows.
import { expect, test } from "vitest";
import { silentLog } from "../contracts/bus.ts";
import { PelagicError } from "../contracts/errors.ts";
import type { TokenConstraint } from "../grammar/constraint.ts";
import { Engine, type EngineEnd } from "./engine.ts";
import { CacheRunner } from "./testing/cache-runner.ts";
import { ManualClock } from "./testing/memory-bus.ts";

/** Answers what it is asked from `holdFrom` accepted tokens on only when told to. */
class HeldConstraint implements TokenConstraint {
  isDisposed = false;
  release: (error?: Error) => void = () => {};
  private readonly holdFrom: number;
  private accepted = 0;

  constructor(holdFrom: number) {
    this.holdFrom = holdFrom;
  }

  allowed(): Promise<Uint32Array> {
    const mask = new Uint32Array(4).fill(0xffffffff);
    if (this.accepted !== this.holdFrom) return Promise.resolve(mask);
    return new Promise((resolve, reject) => {
      this.release = (error) => (error === undefined ? resolve(mask) : reject(error));
    });
  }

  accept(): void {
    this.accepted++;
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

function start() {
  const clock = new ManualClock();
  const config = { kvBlocks: 16, tokenBudget: 128, chunkTokens: 128, chunkAlignTokens: 64 as const, maxSequences: 4, maxWaiting: 16 };
  const engine = new Engine(new CacheRunner(16), { modelDigest: "", numericsId: "", kvDtype: "" }, config, clock, silentLog);
  const ask = (id: string, constraint?: TokenConstraint) => {
    const tokens: number[] = [];
    const end = new Promise<EngineEnd>((resolve) =>
      engine.submit({
        ...{ id, promptLength: 20, cacheSalt: "", mode: "local", maxTokens: 30, stopTokenIds: new Set() },
        tokens: Uint32Array.from({ length: 20 }, (_, row) => row),
        sampling: { temperature: 0, seed: 1n, choice: 0 },
        ...(constraint && { constraint }),
        listener: { onToken: (_, { token }) => void tokens.push(token), onEnd: resolve },
      }),
    );
    return { tokens, end };
  };
  return { engine, clock, ask };
}

const whole: EngineEnd = { kind: "finish", reason: "length" };
const turns = async () => {
  for (let i = 0; i < 200; i++) await new Promise((resolve) => setImmediate(resolve));
};

test("a grammar that is compiled when its request comes", async () => {
  const { engine, ask } = start();
  const held = new HeldConstraint(0);
  const constrained = ask("constrained", held);
  const free = ask("free");
  await expect(free.end).resolves.toEqual(whole);
  expect(constrained.tokens).toEqual([]);
  held.release();
  await expect(constrained.end).resolves.toEqual(whole);
  expect(constrained.tokens).toEqual(free.tokens);
  expect(held.isDisposed).toBe(true);
  await engine.close();
});

test("one that is late in mid-answer: a moment, and the others go on", async () => {
  const { engine, clock, ask } = start();
  const held = new HeldConstraint(7);
  const constrained = ask("constrained", held);
  const free = ask("free");
  await turns();
  expect(constrained.tokens).toHaveLength(7);
  await clock.advance(1_000);
  await expect(free.end).resolves.toEqual(whole);
  expect(constrained.tokens).toHaveLength(7);
  held.release();
  await expect(constrained.end).resolves.toEqual(whole);
  expect(constrained.tokens).toEqual(free.tokens);
  await engine.close();
});

test("one whose grammar cannot be compiled, and one that is cancelled meanwhile", async () => {
  const { engine, ask } = start();
  const [bad, gone] = [new HeldConstraint(0), new HeldConstraint(0)];
  const [refused, cancelled] = [ask("refused", bad), ask("cancelled", gone)];
  await turns();
  bad.release(new PelagicError("invalid_request", "no grammar"));
  engine.cancel("cancelled", new PelagicError("cancelled", "heard enough"));
  await expect(refused.end).resolves.toMatchObject({ kind: "error", error: { code: "invalid_request" } });
  await expect(cancelled.end).resolves.toMatchObject({ kind: "error", error: { code: "cancelled" } });
  gone.release();
  await turns();
  expect([bad.isDisposed, gone.isDisposed]).toEqual([true, true]);
  expect(engine.blocks.owners()).toEqual([]);
  await engine.close();
});
