// Loads of experts over time as a service might have them. Each topic uses its own experts; what is asked is a mixture of topics that drifts, shifts from time
// to time to another topic, and has bursts of one. The same for a seed everywhere.

export interface LoadModel {
  layers: number;
  experts: number;
  topics: number;
  /** Spread of the logarithm of an expert's share: of what all topics have in common, and of what is a topic's own. */
  commonSpread: number;
  topicSpread: number;
  tokensPerInterval: number;
}

export interface LoadStory {
  intervals: number;
  /** How far the mixture's logarithms walk in an interval. */
  drift: number;
  /** Intervals between shifts, and how much a topic has then. */
  shiftEvery: number;
  shiftWeight: number;
  /** Part of intervals in which a burst begins, how long it lasts and how much its topic has. */
  burstChance: number;
  burstIntervals: number;
  burstWeight: number;
}

/** Tokens of each interval, [layers, experts], one after another. */
export function* generateLoads(model: LoadModel, story: LoadStory, seed: number): Generator<Float64Array> {
  const { uniform, normal } = randoms(seed);
  const { layers, experts, topics, tokensPerInterval } = model;
  const common = Float64Array.from({ length: layers * experts }, () => model.commonSpread * normal());
  const shares = Array.from({ length: topics }, () => {
    const own = common.map((each) => Math.exp(each + model.topicSpread * normal()));
    for (let layer = 0; layer < layers; layer++) {
      const part = own.subarray(layer * experts, (layer + 1) * experts);
      const sum = part.reduce((a, b) => a + b);
      for (let i = 0; i < experts; i++) (part[i] as number) /= sum;
    }
    return own;
  });
  const logs = new Float64Array(topics);
  let dominant = 0;
  let burst = { topic: 0, left: 0 };
  for (let interval = 0; interval < story.intervals; interval++) {
    for (let topic = 0; topic < topics; topic++) (logs[topic] as number) += story.drift * normal() - 0.02 * (logs[topic] as number);
    if (interval % story.shiftEvery === 0) dominant = Math.floor(uniform() * topics);
    if (burst.left > 0) burst.left--;
    else if (uniform() < story.burstChance) burst = { topic: Math.floor(uniform() * topics), left: story.burstIntervals };
    const mixture = logs.map(Math.exp);
    const sum = mixture.reduce((a, b) => a + b);
    for (let topic = 0; topic < topics; topic++) {
      mixture[topic] = ((mixture[topic] as number) / sum) * (1 - story.shiftWeight) + (topic === dominant ? story.shiftWeight : 0);
    }
    if (burst.left > 0) {
      for (let topic = 0; topic < topics; topic++) (mixture[topic] as number) *= 1 - story.burstWeight;
      (mixture[burst.topic] as number) += story.burstWeight;
    }
    const loads = new Float64Array(layers * experts);
    for (let i = 0; i < loads.length; i++) {
      let share = 0;
      for (let topic = 0; topic < topics; topic++) share += (mixture[topic] as number) * ((shares[topic] as Float64Array)[i] as number);
      const expected = share * tokensPerInterval;
      loads[i] = Math.max(0, Math.round(expected + Math.sqrt(expected) * normal()));
    }
    yield loads;
  }
}

function randoms(seed: number): { uniform: () => number; normal: () => number } {
  let state = seed >>> 0;
  // mulberry32
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { uniform, normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()) };
}
