// The HorizontalPodAutoscaler on queue depth, as Kubernetes documents its algorithm, with its defaults: every 15 s, tolerance 0.1, not yet
// ready pods count as without load where it would scale up, at most doubled or 4 more in 15 s, and down to the largest recommendation of the
// last 300 s.

export interface HpaConfig {
  minReplicas: number;
  maxReplicas: number;
  /** Requests that wait, for each pod. */
  target: number;
}

const tolerance = 0.1;
const downStabilizationSeconds = 300;

export class Hpa {
  private readonly config: HpaConfig;
  private readonly recommended: { atSeconds: number; replicas: number }[] = [];

  constructor(config: HpaConfig) {
    this.config = config;
  }

  /** `total`: the metric summed over the pool. */
  desired(atSeconds: number, total: number, current: number, ready: number): number {
    const { minReplicas, maxReplicas } = this.config;
    const within = (replicas: number) => Math.min(maxReplicas, Math.max(minReplicas, replicas));
    if (current === 0) return 0;
    const recommendation = within(this.recommend(total, current, ready));
    this.recommended.push({ atSeconds, replicas: recommendation });
    while ((this.recommended[0]?.atSeconds ?? atSeconds) <= atSeconds - downStabilizationSeconds) this.recommended.shift();
    if (recommendation >= current) return within(Math.min(recommendation, Math.max(current * 2, current + 4)));
    return within(Math.min(current, Math.max(...this.recommended.map(({ replicas }) => replicas))));
  }

  private recommend(total: number, current: number, ready: number): number {
    if (ready === 0) return current;
    const { target } = this.config;
    const ratio = total / ready / target;
    if (Math.abs(ratio - 1) <= tolerance) return current;
    if (ratio < 1 || ready >= current) return Math.ceil(ready * ratio);
    // Those that start count with no load; if that turns the direction round, nothing is done.
    const whole = total / current / target;
    return whole <= 1 + tolerance ? current : Math.ceil(current * whole);
  }
}
