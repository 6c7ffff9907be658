// How fast simulated workers are. Declared, not measured: of one accelerator and a model of middle size; only proportions matter.

export interface Rates {
  prefillTokensPerSecond: number;
  /** A decode step takes so long, and so much longer for each sequence in it. */
  stepSeconds: number;
  stepSecondsPerSequence: number;
  /** Sequences that a decode worker takes, and tokens that its cache holds. */
  mostSequences: number;
  cacheTokens: number;
  /** From asking for a worker until it is ready: at least, and up to so much more by chance. */
  startSeconds: number;
  startSpreadSeconds: number;
  /** For so long after that all its work takes so many times as long. */
  coldSeconds: number;
  coldFactor: number;
}

export const rates: Rates = {
  prefillTokensPerSecond: 3000,
  stepSeconds: 0.025,
  stepSecondsPerSequence: 0.001,
  mostSequences: 64,
  cacheTokens: 100_000,
  startSeconds: 60,
  startSpreadSeconds: 30,
  coldSeconds: 20,
  coldFactor: 2,
};

export const objectives = { ttftSeconds: 3, tpotSeconds: 0.05 };
