// Latents on their way between workers: bytes, seconds, ends, moves.
import type { DashboardSpec } from "./panels.ts";
import { type Component, orZero, quantile, rate, series, sumBy } from "./promql.ts";

const window = "$__rate_interval";
const inScope = 'namespace=~"$namespace",modelservice=~"$modelservice"';
const of = (component: Component, name: string, more = "") => series(name, component, [inScope, more].filter(Boolean).join(","));
const sumRate = (component: Component, name: string, by = "", more = "") => sumBy(by, rate(of(component, name, more), window));
const quantiles = (component: Component, name: string, legend = "") =>
  ([0.5, 0.99] as const).map((q) => [quantile(q, "", of(component, `${name}_bucket`), window), `${legend} p${q * 100}`.trim()] as const);

const received = 'direction="received"';
const sent = 'direction="sent"';
const bytes = "pelagic_kv_transfer_bytes_total";
const ends = "pelagic_kv_transfers_total";

export const latentTransfer: DashboardSpec = {
  uid: "pelagic-latent-transfer",
  title: "Pelagic / Latent transfer",
  what: "Latents that move: prefill to decode, and between decode workers. Alerts and what to do: docs/alerts.md.",
  variables: ["modelservice"],
  rows: [
    {
      title: "Between workers",
      panels: [
        {
          title: "Bytes",
          what: "Sent by prefill, sent by decode (moves and resumes), received by decode. Received below sent: transfers are given up.",
          unit: "Bps",
          queries: [
            [sumRate("prefill", bytes, "", sent), "prefill sent"],
            [sumRate("decode", bytes, "", sent), "decode sent"],
            [sumRate("decode", bytes, "", received), "decode received"],
          ],
        },
        {
          title: "Received transfers",
          what: "Ends by outcome. failed: the sender died or drained, frames were lost for good, or the request went elsewhere; what is missing is computed again.",
          unit: "ops",
          stacked: true,
          queries: [[sumRate("decode", ends, "outcome", received), "{{outcome}}"]],
        },
        {
          title: "Failed share",
          what: "Of received transfers. Lasting: see restarts of prefill workers, resent frames, and the bus.",
          unit: "percentunit",
          red: { above: 0.05 },
          queries: [
            [
              `${orZero(sumRate("decode", ends, "", `${received},outcome="failed"`), sumRate("decode", ends, "", received))} / ${sumRate("decode", ends, "", received)}`,
              "failed",
            ],
          ],
        },
        {
          title: "Seconds of a transfer",
          what: "From asking for rows to the last of them, their computation included. Long with a short send: prefill is the bottleneck.",
          unit: "s",
          queries: quantiles("decode", "pelagic_kv_transfer_seconds"),
        },
        {
          title: "At the sender",
          what: "To KV blocks given (queue), to the last row computed (compute), to the last frame sent (send: what no computing hid). Queue: add prefill workers; send: the bus or the network.",
          unit: "s",
          queries: [
            ...quantiles("prefill", "pelagic_prefill_queue_seconds", "queue"),
            ...quantiles("prefill", "pelagic_prefill_compute_seconds", "compute"),
            ...quantiles("prefill", "pelagic_prefill_send_seconds", "send"),
          ],
        },
        {
          title: "Bytes of a transfer",
          what: "Mean of received ones. It follows the prompts' uncached lengths.",
          unit: "bytes",
          queries: [[`${sumRate("decode", bytes, "", received)} / ${sumRate("decode", ends, "", received)}`, "mean"]],
        },
        {
          title: "Moves",
          what: "Transfers between decode workers, by outcome: drains and resumes. In a roll-out they are how no answer is lost.",
          unit: "ops",
          stacked: true,
          queries: [[sumRate("decode", ends, "outcome", sent), "{{outcome}}"]],
        },
        {
          title: "Resumes",
          what: "Answers that another decode worker went on with, as gateways count them. More than moves: workers died rather than drained.",
          unit: "ops",
          queries: [
            [
              sumBy("model_name", rate(series("pelagic_gateway_resumes_total", "gateway", 'namespace=~"$namespace"'), window)),
              "{{model_name}}",
            ],
          ],
        },
        {
          title: "Granted and not yet received",
          what: "Bytes that senders may send. Level and high while nothing is received: senders hang.",
          unit: "bytes",
          queries: [[of("decode", "pelagic_kv_receive_credit_bytes"), "{{pod}}"]],
        },
      ],
    },
    {
      title: "The bus",
      panels: [
        {
          title: "Frames sent again",
          what: "Lost or damaged on their way. Any steady rate: NATS drops for slow consumers, or the network does.",
          unit: "ops",
          queries: [
            [sumRate("prefill", "pelagic_kv_resent_frames_total"), "prefill"],
            [sumRate("decode", "pelagic_kv_resent_frames_total"), "decode"],
          ],
        },
        {
          title: "Dropped messages",
          what: "Malformed or damaged. Steady: another version, or somebody else, speaks on the same subjects.",
          unit: "ops",
          queries: [
            [
              sumBy(
                "component",
                rate('pelagic_bus_dropped_messages_total{namespace=~"$namespace",component=~"gateway|prefill|decode"}', window),
              ),
              "{{component}}",
            ],
          ],
        },
      ],
    },
  ],
};
