// For each alert: series under which it fires, with the labels that it then has, and series under which it does not.

export interface AlertCase {
  what: string;
  /** Values in promtool's notation, one each 30 s. */
  series: Record<string, string>;
  /** When it is looked at. */
  at: string;
  /** null: it does not fire. */
  fires: Record<string, string> | null;
}

const model = 'namespace="n",model_name="m"';
const decode = 'namespace="n",modelservice="s",component="decode",pod="d"';
const prefill = 'namespace="n",modelservice="s",component="prefill",pod="p"';
const gateway = 'namespace="n",component="gateway",pod="g"';
const operator = (pod: string) => `namespace="n",component="operator",pod="${pod}"`;
const ended = (outcome: string) => `pelagic_gateway_requests_total{${model},endpoint="chat",outcome="${outcome}"}`;
const ttft = (rest: string) => `gen_ai_server_time_to_first_token_seconds_${rest}`;
const tpot = (rest: string) => `gen_ai_server_time_per_output_token_seconds_${rest}`;
const slo = (name: string) => ({ namespace: "n", model_name: "m", slo: name });
const service = { namespace: "n", modelservice: "s" };
const blocks = (n: number) => `vllm:cache_config_info{${model},component="gateway",pod="g${n}",block_size="64",num_gpu_blocks="${n}"}`;
const transfers = (outcome: string) => `pelagic_kv_transfers_total{${decode},direction="received",outcome="${outcome}"}`;
const sendBucket = (le: string) => `pelagic_prefill_send_seconds_bucket{${prefill},le="${le}"}`;

/** Of 1,000 requests each half minute, so many failed. */
const failing = (failed: number, lines: number) => ({
  [ended("stop")]: `0+${1000 - failed}x${lines}`,
  [ended("internal")]: `0+${failed}x${lines}`,
});

export const alertCases: Record<string, AlertCase[]> = {
  PelagicSloBurnFast: [
    { what: "one of fifty fails", series: failing(20, 120), at: "30m", fires: slo("availability") },
    {
      what: "half come late",
      series: { [ttft(`count{${model},endpoint="chat"}`)]: "0+100x120", [ttft(`bucket{${model},endpoint="chat",le="2.5"}`)]: "0+50x120" },
      at: "30m",
      fires: slo("ttft"),
    },
    {
      what: "half are slow",
      series: { [tpot(`count{${model},endpoint="chat"}`)]: "0+100x120", [tpot(`bucket{${model},endpoint="chat",le="0.1"}`)]: "0+50x120" },
      at: "30m",
      fires: slo("tpot"),
    },
    { what: "one of a hundred fails", series: failing(10, 120), at: "30m", fires: null },
    {
      what: "clients are at fault",
      series: { [ended("stop")]: "0+10x120", [ended("invalid_request")]: "0+90x120" },
      at: "30m",
      fires: null,
    },
    { what: "few ask", series: { [ended("stop")]: "0+0.03x120", [ended("internal")]: "0+0.03x120" }, at: "30m", fires: null },
    {
      what: "it is over",
      series: { [ended("stop")]: "0+900x160", [ended("internal")]: "0+100x120 12000x40" },
      at: "75m",
      fires: null,
    },
  ],
  PelagicSloBurnSlow: [
    { what: "one of a hundred fails", series: failing(10, 240), at: "60m", fires: slo("availability") },
    { what: "two of a thousand fail", series: failing(2, 240), at: "60m", fires: null },
  ],
  PelagicSloBudgetLeak: [
    { what: "two of a thousand fail", series: failing(2, 480), at: "3h", fires: slo("availability") },
    { what: "one of two thousand fails", series: failing(0.5, 480), at: "3h", fires: null },
  ],
  PelagicNoDecodeWorkers: [
    {
      what: "requests wait and none is there",
      series: { [blocks(0)]: "1x40", [`pelagic_gateway_requests_waiting{${model}}`]: "2x40" },
      at: "10m",
      fires: { namespace: "n", model_name: "m" },
    },
    {
      what: "requests fail and none is there",
      series: { [blocks(0)]: "1x40", [`pelagic_gateway_requests_waiting{${model}}`]: "0x40", [ended("no_workers")]: "0+5x40" },
      at: "10m",
      fires: { namespace: "n", model_name: "m" },
    },
    {
      what: "it is scaled to zero and nobody asks",
      series: { [blocks(0)]: "1x40", [`pelagic_gateway_requests_waiting{${model}}`]: "0x40", [ended("stop")]: "7x40" },
      at: "10m",
      fires: null,
    },
    {
      what: "another gateway sees some",
      series: { [blocks(0)]: "1x40", [blocks(24)]: "1x40", [`pelagic_gateway_requests_waiting{${model}}`]: "2x40" },
      at: "10m",
      fires: null,
    },
  ],
  PelagicNoPrefillWorkers: [
    { what: "decode is alone", series: { [`pelagic_kv_blocks{${decode}}`]: "24x60" }, at: "20m", fires: service },
    {
      what: "both are there",
      series: { [`pelagic_kv_blocks{${decode}}`]: "24x60", [`pelagic_kv_blocks{${prefill}}`]: "24x60" },
      at: "20m",
      fires: null,
    },
  ],
  PelagicKvBlocksFull: [
    {
      what: "all are held and requests wait",
      series: { [`vllm:kv_cache_usage_perc{${decode}}`]: "0.99x60", [`vllm:num_requests_waiting{${decode}}`]: "3x60" },
      at: "20m",
      fires: service,
    },
    {
      what: "nobody waits",
      series: { [`vllm:kv_cache_usage_perc{${decode}}`]: "0.99x60", [`vllm:num_requests_waiting{${decode}}`]: "0x60" },
      at: "20m",
      fires: null,
    },
  ],
  PelagicPreemptions: [
    {
      what: "each request is pushed out once",
      series: {
        [`vllm:num_preemptions_total{${decode}}`]: "0+10x80",
        [`pelagic_requests_total{${decode},outcome="stop"}`]: "0+10x80",
      },
      at: "35m",
      fires: service,
    },
    {
      what: "one of ten is",
      series: {
        [`vllm:num_preemptions_total{${decode}}`]: "0+1x80",
        [`pelagic_requests_total{${decode},outcome="stop"}`]: "0+10x80",
      },
      at: "35m",
      fires: null,
    },
  ],
  PelagicQueueFull: [
    {
      what: "one of ten is refused",
      series: { [ended("stop")]: "0+90x60", [ended("overloaded")]: "0+10x60" },
      at: "15m",
      fires: { namespace: "n", model_name: "m" },
    },
    { what: "one of a hundred is", series: { [ended("stop")]: "0+99x60", [ended("overloaded")]: "0+1x60" }, at: "15m", fires: null },
  ],
  PelagicTransfersFailing: [
    { what: "one of ten fails", series: { [transfers("complete")]: "0+9x60", [transfers("failed")]: "0+1x60" }, at: "25m", fires: service },
    { what: "all fail", series: { [transfers("failed")]: "0+1x60" }, at: "25m", fires: service },
    {
      what: "one of a hundred fails",
      series: { [transfers("complete")]: "0+99x60", [transfers("failed")]: "0+1x60" },
      at: "25m",
      fires: null,
    },
  ],
  PelagicTransfersSlow: [
    {
      what: "one of twenty takes seconds",
      series: { [sendBucket("0.5")]: "0+95x80", [sendBucket("2.5")]: "0+100x80", [sendBucket("+Inf")]: "0+100x80" },
      at: "35m",
      fires: service,
    },
    {
      what: "all are sent at once",
      series: { [sendBucket("0.5")]: "0+100x80", [sendBucket("2.5")]: "0+100x80", [sendBucket("+Inf")]: "0+100x80" },
      at: "35m",
      fires: null,
    },
  ],
  PelagicBlocksLeaked: [
    {
      what: "a decode worker without requests holds blocks",
      series: {
        [`vllm:kv_cache_usage_perc{${decode}}`]: "0.1x60",
        [`vllm:num_requests_running{${decode}}`]: "0x60",
        [`vllm:num_requests_waiting{${decode}}`]: "0x60",
      },
      at: "25m",
      fires: { ...service, component: "decode", pod: "d" },
    },
    {
      what: "requests hold them, and nothing is held elsewhere",
      series: {
        [`vllm:kv_cache_usage_perc{${decode}}`]: "0.1x60",
        [`vllm:num_requests_running{${decode}}`]: "1x60",
        [`vllm:num_requests_waiting{${decode}}`]: "0x60",
        [`vllm:kv_cache_usage_perc{${prefill}}`]: "0x60",
        [`vllm:num_requests_running{${prefill}}`]: "0x60",
        [`vllm:num_requests_waiting{${prefill}}`]: "0x60",
      },
      at: "25m",
      fires: null,
    },
  ],
  PelagicCancellationsStuck: [
    {
      what: "none is confirmed",
      series: {
        [`pelagic_gateway_cancellations_pending{${gateway}}`]: "2x60",
        [`pelagic_gateway_cancellation_seconds_count{${gateway}}`]: "9x60",
      },
      at: "25m",
      fires: { namespace: "n", component: "gateway", pod: "g" },
    },
    {
      what: "others are",
      series: {
        [`pelagic_gateway_cancellations_pending{${gateway}}`]: "2x60",
        [`pelagic_gateway_cancellation_seconds_count{${gateway}}`]: "0+1x60",
      },
      at: "25m",
      fires: null,
    },
  ],
  PelagicBusMessagesDropped: [
    {
      what: "some are, all the time",
      series: { [`pelagic_bus_dropped_messages_total{${decode}}`]: "0+1x80" },
      at: "35m",
      fires: { namespace: "n", component: "decode" },
    },
    { what: "one was", series: { [`pelagic_bus_dropped_messages_total{${decode}}`]: "0x10 1x70" }, at: "35m", fires: null },
  ],
  PelagicOperatorNotLeading: [
    {
      what: "none of two leads",
      series: { [`pelagic_operator_leader{${operator("a")}}`]: "0x20", [`pelagic_operator_leader{${operator("b")}}`]: "0x20" },
      at: "5m",
      fires: { namespace: "n" },
    },
    {
      what: "two lead",
      series: { [`pelagic_operator_leader{${operator("a")}}`]: "1x20", [`pelagic_operator_leader{${operator("b")}}`]: "1x20" },
      at: "5m",
      fires: { namespace: "n" },
    },
    { what: "it is gone", series: { [`pelagic_operator_leader{${operator("a")}}`]: "1x10 stale" }, at: "10m", fires: { namespace: "n" } },
    {
      what: "it has been gone for long, while gateways and workers serve on",
      series: {
        [`pelagic_operator_leader{${operator("a")}}`]: "1x10 stale",
        [`pelagic_gateway_requests_running{${gateway}}`]: "0x200",
        [`pelagic_kv_blocks{${decode}}`]: "64x200",
      },
      at: "80m",
      fires: { namespace: "n" },
    },
    {
      what: "a stack without Kubernetes has none",
      series: { 'pelagic_gateway_requests_running{component="gateway"}': "0x200", 'pelagic_kv_blocks{component="decode"}': "64x200" },
      at: "80m",
      fires: null,
    },
    { what: "it has been uninstalled", series: { [`pelagic_operator_leader{${operator("a")}}`]: "1x10 stale" }, at: "30m", fires: null },
    {
      what: "one of two leads",
      series: { [`pelagic_operator_leader{${operator("a")}}`]: "1x20", [`pelagic_operator_leader{${operator("b")}}`]: "0x20" },
      at: "5m",
      fires: null,
    },
  ],
  PelagicReconcileFailing: [
    {
      what: "two do not settle",
      series: { [`pelagic_operator_queue_failing{${operator("a")}}`]: "2x60" },
      at: "20m",
      fires: { namespace: "n" },
    },
    {
      what: "one did not and now does",
      series: { [`pelagic_operator_queue_failing{${operator("a")}}`]: "1x10 0x50" },
      at: "20m",
      fires: null,
    },
  ],
  PelagicOperatorDeaf: [
    {
      what: "pods are silent",
      series: { [`pelagic_operator_informer_silent_seconds{${operator("a")},resource="pods"}`]: "0+30x40" },
      at: "15m",
      fires: { namespace: "n", pod: "a" },
    },
    {
      what: "all are heard",
      series: { [`pelagic_operator_informer_silent_seconds{${operator("a")},resource="pods"}`]: "20x40" },
      at: "15m",
      fires: null,
    },
  ],
  PelagicScrapesFailing: [
    {
      what: "one of four is never heard",
      series: {
        [`pelagic_operator_scrapes_total{${operator("a")},result="ok"}`]: "0+6x120",
        [`pelagic_operator_scrapes_total{${operator("a")},result="failed"}`]: "0+2x120",
      },
      at: "40m",
      fires: { namespace: "n" },
    },
    {
      what: "one was not, while it started",
      series: {
        [`pelagic_operator_scrapes_total{${operator("a")},result="ok"}`]: "0+6x120",
        [`pelagic_operator_scrapes_total{${operator("a")},result="failed"}`]: "0+2x6 12x114",
      },
      at: "40m",
      fires: null,
    },
    { what: "all are", series: { [`pelagic_operator_scrapes_total{${operator("a")},result="ok"}`]: "0+8x120" }, at: "40m", fires: null },
  ],
  PelagicProcessDown: [
    {
      what: "it does not answer",
      series: { [`up{${decode}}`]: "0x40" },
      at: "10m",
      fires: { namespace: "n", component: "decode", pod: "d" },
    },
    { what: "it is somebody else's", series: { 'up{namespace="n",pod="x"}': "0x40" }, at: "10m", fires: null },
  ],
  PelagicProcessRestarts: [
    {
      what: "it starts every two minutes",
      series: { [`process_start_time_seconds{${decode}}`]: "0x3 100x3 200x3 300x3 400x3 500x3 600x3" },
      at: "14m",
      fires: { namespace: "n", component: "decode", pod: "d" },
    },
    { what: "it started once more", series: { [`process_start_time_seconds{${decode}}`]: "0x3 100x30" }, at: "14m", fires: null },
  ],
  PelagicKeysUnread: [
    {
      what: "it cannot be read",
      series: { [`pelagic_gateway_keys_unread{${gateway}}`]: "1x40" },
      at: "10m",
      fires: { namespace: "n", pod: "g" },
    },
    { what: "it is read", series: { [`pelagic_gateway_keys_unread{${gateway}}`]: "0x40" }, at: "10m", fires: null },
  ],
  PelagicTargetLabelsMissing: [
    {
      what: "a worker has none",
      series: { 'pelagic_kv_blocks{pod="d"}': "24x60", [`pelagic_kv_blocks{${prefill}}`]: "24x60" },
      at: "20m",
      fires: {},
    },
    { what: "all have them", series: { [`pelagic_kv_blocks{${decode}}`]: "24x60" }, at: "20m", fires: null },
  ],
};
