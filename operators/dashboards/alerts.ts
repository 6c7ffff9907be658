// What wakes somebody, and what is then to be done. Each has a paragraph in docs/alerts.md and a test that it fires and that it does not.
import { clientFaults } from "./objectives.ts";
import { orZero, quantile, rate, series, sumBy } from "./promql.ts";

/** `value op bound`; the value is there also while all is well, so that a test can ask for it. */
export interface Condition {
  value: string;
  op: ">" | "==" | "!=";
  bound: number;
}

export interface Alert {
  name: string;
  /** critical: somebody must come now. warning: within the day. */
  severity: "critical" | "warning";
  /** All of them, for the same labels. */
  when: readonly [Condition, ...Condition[]];
  for: string;
  summary: string;
  description: string;
  /** What it means and what to do, in docs/alerts.md. */
  runbook: string;
}

export function expressionOf({ when }: Alert): string {
  return when.map(({ value, op, bound }) => `${value} ${op} ${bound}`).join(" and ");
}

const byModel = "namespace, model_name";
const byService = "namespace, modelservice";
const ours = 'component=~"gateway|prefill|decode|operator"';

const burn = (window: string, factor: number): Condition => ({ value: `pelagic:slo_burn:ratio${window}`, op: ">", bound: factor });
/** A single failure among few requests is no rate. */
const askedOften = (window: string): Condition => ({
  value: `avg_over_time(pelagic:slo_all:rate5m[${window}]) * 3600`,
  op: ">",
  bound: 10,
});

const sloRunbook =
  "The label slo says which objective: availability (no 5xx), ttft or tpot (see operators/dashboards/objectives.ts for the bounds). In the overview, availability: Ends shows " +
  "the outcome that grew; overloaded: add decode workers; no_workers or worker_lost: kubectl get ms -A, then the pods; internal: the gateway's log, by request id. ttft: Where the " +
  "time goes; queue means decode is too small, first token means prefill is, or the transfer (Latent transfer). tpot: steps are slow; fewer requests a worker, more threads, more workers. " +
  "If it began with a roll-out, roll back first.";

const slo: Alert[] = [
  {
    name: "PelagicSloBurnFast",
    severity: "critical",
    when: [burn("1h", 14.4), burn("5m", 14.4), askedOften("1h")],
    for: "2m",
    summary: "{{ $labels.model_name }} misses its {{ $labels.slo }} objective, fast",
    description: "The error budget of 30 days is used {{ $value | humanize }} times too fast; at this rate it is gone within two days.",
    runbook: `More than 2 % of the month's budget went in the last hour, and it goes on. ${sloRunbook}`,
  },
  {
    name: "PelagicSloBurnSlow",
    severity: "warning",
    when: [burn("6h", 6), burn("30m", 6), askedOften("6h")],
    for: "15m",
    summary: "{{ $labels.model_name }} misses its {{ $labels.slo }} objective",
    description: "The error budget of 30 days is used {{ $value | humanize }} times too fast; at this rate it is gone within five days.",
    runbook:
      "More than 5 % of the month's budget went in the last six hours. As PelagicSloBurnFast, with time to look: usually load that grew beyond the pools.",
  },
  {
    name: "PelagicSloBudgetLeak",
    severity: "warning",
    when: [burn("3d", 1), burn("6h", 1), askedOften("3d")],
    for: "1h",
    summary: "{{ $labels.model_name }} will miss its {{ $labels.slo }} objective this month",
    description: "For three days the error budget has been used {{ $value | humanize }} times as fast as allowed.",
    runbook:
      "Nothing is broken now, but the month will end below its objective. As PelagicSloBurnFast; if the objective is more than was promised, change it in operators/dashboards/objectives.ts.",
  },
];

const decodeUsage = series("vllm:kv_cache_usage_perc", "decode");
const gatewayBlocks = (more = "") => sumBy(byModel, series("vllm:cache_config_info", "gateway", more));
const workersSeen = (component: "prefill" | "decode") => `count by (${byService}) (${series("pelagic_kv_blocks", component)})`;
const ended = sumBy(byModel, rate(series("pelagic_gateway_requests_total", "gateway"), "5m"));
const queued = sumBy(byModel, series("pelagic_gateway_requests_waiting", "gateway"));
const notClients = sumBy(byModel, rate(series("pelagic_gateway_requests_total", "gateway", `outcome!~"${clientFaults}"`), "5m"));
const overloaded = sumBy(byModel, rate(series("pelagic_gateway_requests_total", "gateway", 'outcome="overloaded"'), "5m"));

const capacity: Alert[] = [
  {
    name: "PelagicNoDecodeWorkers",
    severity: "critical",
    when: [
      { value: orZero(gatewayBlocks('num_gpu_blocks!="0"'), gatewayBlocks()), op: "==", bound: 0 },
      { value: `${orZero(ended, queued)} + ${queued}`, op: ">", bound: 0 },
    ],
    for: "3m",
    summary: "No decode worker serves {{ $labels.model_name }}",
    description: "Gateways see no ready decode worker, and requests come: they wait, or end with 503.",
    runbook:
      "kubectl get ms -A: the Ready condition's message says what is missing. Pods pending: no room, or no GPU; see their events. Pods that restart: the log of the container before (--previous); " +
      "out of memory: lower cacheMemoryMib. Pods ready and still none seen: the bus; compare the workers' and the gateway's NATS URL and credentials. On one machine: ./pelagic status. " +
      "Scaled to zero it fires only if no worker has come three minutes after a request: see the operator.",
  },
  {
    name: "PelagicNoPrefillWorkers",
    severity: "warning",
    when: [{ value: orZero(workersSeen("prefill"), workersSeen("decode")), op: "==", bound: 0 }],
    for: "10m",
    summary: "{{ $labels.modelservice }} has decode workers and no prefill worker",
    description: "Decode computes prompts itself: answers are right, and the first token comes later.",
    runbook:
      "kubectl get ms -A and the prefill pods' events, as for PelagicNoDecodeWorkers. If Prometheus cannot reach them but they run, its targets page says why. If the service is meant to run without prefill, silence it for that modelservice.",
  },
  {
    name: "PelagicKvBlocksFull",
    severity: "warning",
    when: [
      { value: `avg by (${byService}) (${decodeUsage})`, op: ">", bound: 0.95 },
      { value: sumBy(byService, series("vllm:num_requests_waiting", "decode")), op: ">", bound: 0 },
    ],
    for: "10m",
    summary: "The decode workers of {{ $labels.modelservice }} are full",
    description: "{{ $value | humanizePercentage }} of their KV blocks are held by requests, and others wait.",
    runbook:
      "Add decode workers (pools.decode.replicas or maxReplicas) or blocks (cacheMemoryMib). Sudden, at the same load: look for very long answers (Lengths) and for PelagicBlocksLeaked.",
  },
  {
    name: "PelagicPreemptions",
    severity: "warning",
    when: [
      {
        value: `${sumBy(byService, rate(series("vllm:num_preemptions_total", "decode"), "10m"))} / ${sumBy(byService, rate(series("pelagic_requests_total", "decode"), "10m"))}`,
        op: ">",
        bound: 0.5,
      },
    ],
    for: "15m",
    summary: "Requests of {{ $labels.modelservice }} push each other out",
    description: "{{ $value | humanize }} preemptions for each request that ends: the same rows are computed again and again.",
    runbook:
      "Answers grow beyond the blocks there are. Add decode workers or cacheMemoryMib; until then lower the keys' --max-concurrent, or ask clients for smaller max_tokens.",
  },
  {
    name: "PelagicQueueFull",
    severity: "warning",
    when: [{ value: `${orZero(overloaded, notClients)} / ${notClients}`, op: ">", bound: 0.05 }],
    for: "5m",
    summary: "Requests for {{ $labels.model_name }} are refused",
    description:
      "{{ $value | humanizePercentage }} of the requests found the gateway's queue at its bound, or waited there as long as they may.",
    runbook:
      "More is asked than the workers can do. Add decode workers, or let the autoscaler have more (maxReplicas). If KV usage is low, the bound is the gateway's own: see its README, PELAGIC_MAX_RUNNING and the queue's bounds. One client alone: give its key limits.",
  },
];

const transferred = (more = "") =>
  sumBy(byService, rate(series("pelagic_kv_transfers_total", "decode", ['direction="received"', more].filter(Boolean).join(",")), "10m"));
const byWorker = "namespace, modelservice, component, pod";
const ofWorkers = (name: string) => `${name}{component=~"prefill|decode"}`;

const transfer: Alert[] = [
  {
    name: "PelagicTransfersFailing",
    severity: "warning",
    when: [{ value: `${orZero(transferred('outcome="failed"'), transferred())} / ${transferred()}`, op: ">", bound: 0.05 }],
    for: "10m",
    summary: "Latent transfers of {{ $labels.modelservice }} fail",
    description:
      "{{ $value | humanizePercentage }} of the transfers failed. Answers are right all the same: decode computes those rows itself, later.",
    runbook:
      "Latent transfer shows what else changed. Restarts of prefill workers: their log. Frames sent again: NATS drops or the network loses; see the nats-server log for slow consumers and raise its limits. During a roll-out of prefill it ends with it.",
  },
  {
    name: "PelagicTransfersSlow",
    severity: "warning",
    when: [{ value: quantile(0.99, byService, series("pelagic_prefill_send_seconds_bucket", "prefill"), "10m"), op: ">", bound: 1 }],
    for: "15m",
    summary: "Latent transfers of {{ $labels.modelservice }} are slow",
    description: "After the last row is computed, sending takes {{ $value | humanizeDuration }} (p99): clients wait for that.",
    runbook:
      "The bus is the bottleneck. Bytes near what the network carries: place prefill, NATS and decode on the same rack, or run NATS on a node of its own. Bytes low: the receivers grant too little; see decode's event loop lag and CPU limits.",
  },
  {
    name: "PelagicBlocksLeaked",
    severity: "warning",
    when: [
      { value: sumBy(byWorker, ofWorkers("vllm:kv_cache_usage_perc")), op: ">", bound: 0 },
      {
        value: sumBy(byWorker, `${ofWorkers("vllm:num_requests_running")} + ${ofWorkers("vllm:num_requests_waiting")}`),
        op: "==",
        bound: 0,
      },
    ],
    for: "15m",
    summary: "{{ $labels.pod }} holds KV blocks for nobody",
    description: "{{ $value | humanizePercentage }} of its blocks are in use, and it has no request.",
    runbook:
      "A fault of ours: keep the worker's log, then drain and end it (delete the pod; ./pelagic drain WORKER on one machine). Nothing is lost, since it serves nobody. Report it with the log.",
  },
  {
    name: "PelagicCancellationsStuck",
    severity: "warning",
    when: [
      { value: series("pelagic_gateway_cancellations_pending", "gateway"), op: ">", bound: 0 },
      { value: rate(series("pelagic_gateway_cancellation_seconds_count", "gateway"), "10m"), op: "==", bound: 0 },
    ],
    for: "10m",
    summary: "{{ $labels.pod }} waits for cancellations that nobody confirms",
    description:
      "{{ $value }} requests were given up and their decode workers have not answered for ten minutes: they may still hold blocks.",
    runbook:
      "See whether the decode workers run and whether the bus carries messages (Dropped messages, the nats-server log). Decode ends such requests by itself when their lease ends; workers whose usage stays up are ended as for PelagicBlocksLeaked.",
  },
  {
    name: "PelagicBusMessagesDropped",
    severity: "warning",
    when: [
      {
        value: sumBy("namespace, component", rate('pelagic_bus_dropped_messages_total{component=~"gateway|prefill|decode"}', "10m")),
        op: ">",
        bound: 0,
      },
    ],
    for: "15m",
    summary: "{{ $labels.component }} drops messages from the bus",
    description: "{{ $value | humanize }} a second are malformed or damaged. What was lost is asked for again.",
    runbook:
      "Two versions that do not understand each other (finish the roll-out, or roll back), somebody else on the same subjects (give each installation a NATS account of its own), or a faulty network. The process logs the subject.",
  },
];

const leaders = sumBy("namespace", series("pelagic_operator_leader", "operator"));
/** Where an operator should be: one was there a moment ago, or gateways are and somewhere workers that an operator made. */
const operatorNamespaces = [
  `max by (namespace) (max_over_time(${series("pelagic_operator_leader", "operator")}[15m]))`,
  `${sumBy("namespace", series("pelagic_gateway_requests_running", "gateway"))} and on () count(${series("pelagic_kv_blocks", "decode", 'modelservice!=""')})`,
].join(" or ");
const processes = "namespace, component, pod";
const scraped = (more = "") => sumBy("namespace", rate(series("pelagic_operator_scrapes_total", "operator", more), "10m"));

const operation: Alert[] = [
  {
    name: "PelagicOperatorNotLeading",
    severity: "critical",
    when: [
      {
        value: orZero(leaders, `(${operatorNamespaces})`),
        op: "!=",
        bound: 1,
      },
    ],
    for: "2m",
    summary: "{{ $value }} operators lead in {{ $labels.namespace }}",
    description: "Exactly one should. With none, workers go on serving, but nothing is scaled, rolled or mended.",
    runbook:
      "No replica runs: see the Deployment and its events. They run and none leads: their log says why the Lease cannot be taken (somebody deleted it: the operator may not make one, helm upgrade with the same values does; RBAC of leases, the API server away, clocks of the nodes apart). Two for more than a moment: Prometheus holds a target that is gone, or a clock is off; " +
      "end one, the other goes on. After an uninstall it ends by itself within 15 minutes.",
  },
  {
    name: "PelagicReconcileFailing",
    severity: "warning",
    when: [{ value: `max by (namespace) (${series("pelagic_operator_queue_failing", "operator")})`, op: ">", bound: 0 }],
    for: "15m",
    summary: "ModelServices cannot be brought to what they ask for",
    description: "The last rounds of {{ $value }} failed or were refused; they are tried again, ever more rarely.",
    runbook:
      "kubectl get ms -A shows which; kubectl describe ms NAME the reason: a quota, an admission policy, a name that is taken, a role that lacks a verb (403 in Calls). Put that right; the operator goes on by itself.",
  },
  {
    name: "PelagicOperatorDeaf",
    severity: "critical",
    when: [{ value: `max by (namespace, pod) (${series("pelagic_operator_informer_silent_seconds", "operator")})`, op: ">", bound: 180 }],
    for: "5m",
    summary: "{{ $labels.pod }} hears nothing of the API server",
    description: "For {{ $value | humanizeDuration }} a watch has been silent: the operator acts on what is old, and is not ready.",
    runbook:
      "See whether the API server answers others (kubectl get --raw /readyz). If it does: the operator's NetworkPolicy, a proxy between them, or its credentials (401 in Calls). It connects again by itself.",
  },
  {
    name: "PelagicScrapesFailing",
    severity: "warning",
    when: [{ value: `${orZero(scraped('result="failed"'), scraped())} / ${scraped()}`, op: ">", bound: 0.1 }],
    for: "15m",
    summary: "The operator in {{ $labels.namespace }} cannot read gateways or workers",
    description:
      "{{ $value | humanizePercentage }} of its looks fail: models with an autoscaling policy get none fewer, and may get none more.",
    runbook:
      "kubectl get ms -A -o wide, then the Autoscaled condition of each: its message names who gives no figures and why. no answer: a NetworkPolicy between the operator and the admin port (9100), or a process that hangs; " +
      "ECONNREFUSED: the process is not there, see its log; status: somebody else answers on that port. Models without an autoscaling policy are not concerned.",
  },
  {
    name: "PelagicProcessDown",
    severity: "warning",
    when: [{ value: `min by (${processes}) (up{${ours}})`, op: "==", bound: 0 }],
    for: "5m",
    summary: "{{ $labels.pod }} does not answer Prometheus",
    description: "The {{ $labels.component }} process cannot be scraped: dead, hanging, or behind a NetworkPolicy.",
    runbook:
      "kubectl get pod and its log. If it serves, Prometheus is kept out: its namespace must be allowed to reach the admin port. A hanging process is ended by its liveness probe; on one machine end it, the supervisor starts another.",
  },
  {
    name: "PelagicProcessRestarts",
    severity: "warning",
    when: [{ value: `max by (${processes}) (changes(process_start_time_seconds{${ours}}[1h]))`, op: ">", bound: 3 }],
    for: "1m",
    summary: "{{ $labels.pod }} restarts again and again",
    description: "{{ $value }} times within an hour. Its requests went on elsewhere, each with a pause.",
    runbook:
      "kubectl describe pod: OOMKilled: raise the memory limit or lower cacheMemoryMib; probe failures: too little CPU for its threads; exit code 1: kubectl logs --previous names what is missing.",
  },
  {
    name: "PelagicKeysUnread",
    severity: "warning",
    when: [{ value: `max by (namespace, pod) (${series("pelagic_gateway_keys_unread", "gateway")})`, op: ">", bound: 0 }],
    for: "5m",
    summary: "{{ $labels.pod }} cannot read its keys file",
    description: "The keys read before are still taken: those revoked since are not yet refused.",
    runbook:
      "The gateway's log names the line or the permission that is wrong. Put the file (the Secret) right; it is read again within seconds.",
  },
  {
    name: "PelagicTargetLabelsMissing",
    severity: "warning",
    when: [
      {
        value: orZero(
          'count({__name__=~"pelagic_kv_blocks|pelagic_gateway_requests_running|pelagic_operator_leader",component=""})',
          'count({__name__=~"pelagic_kv_blocks|pelagic_gateway_requests_running|pelagic_operator_leader"})',
        ),
        op: ">",
        bound: 0,
      },
    ],
    for: "15m",
    summary: "Pelagic's processes are scraped without the label component",
    description: "{{ $value }} of them: no panel and no other alert sees them.",
    runbook: "Dashboards and alerts tell processes apart by labels that the scrape gives: docs/observability.md, What the scrape must say.",
  },
];

export const alertGroups: readonly { name: string; alerts: readonly Alert[] }[] = [
  { name: "pelagic-slo-alerts", alerts: slo },
  { name: "pelagic-capacity", alerts: capacity },
  { name: "pelagic-transfer", alerts: transfer },
  { name: "pelagic-operation", alerts: operation },
];
