// The few turns of PromQL that panels and rules are made of. What the labels of a target are: docs/observability.md.

export type Component = "gateway" | "prefill" | "decode" | "operator";

/** Names that one component alone has; all others are told apart by the label. */
const owned = /^(pelagic_gateway_|gen_ai_server_|pelagic_operator_)/;

/** `name{component="...", more}`. */
export function series(name: string, component: Component, more = ""): string {
  const matchers = [...(owned.test(name) ? [] : [`component="${component}"`]), ...(more === "" ? [] : [more])];
  return matchers.length === 0 ? name : `${name}{${matchers.join(",")}}`;
}

export const rate = (selector: string, window: string) => `rate(${selector}[${window}])`;

export const sumBy = (labels: string, vector: string) => (labels === "" ? `sum(${vector})` : `sum by (${labels}) (${vector})`);

/** Of a histogram, over all its series but for `labels`. */
export function quantile(q: number, labels: string, buckets: string, window: string): string {
  return `histogram_quantile(${q}, ${sumBy(labels === "" ? "le" : `le, ${labels}`, rate(buckets, window))})`;
}

/** `part`, and 0 where the whole exists without it: a counter that was never raised has no series. */
export const orZero = (part: string, whole: string) => `(${part} or 0 * ${whole})`;
