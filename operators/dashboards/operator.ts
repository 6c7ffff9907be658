// The operator: who leads, what its rounds come to, what it wants of the pools it scales, what the API server costs it.
import type { DashboardSpec } from "./panels.ts";
import { quantile, rate, series, sumBy } from "./promql.ts";

const window = "$__rate_interval";
const of = (name: string, more = "") =>
  series(`pelagic_operator_${name}`, "operator", ['namespace=~"$namespace"', more].filter(Boolean).join(","));
const own = (name: string) => series(name, "operator", 'namespace=~"$namespace"');
const sumRate = (name: string, by: string) => sumBy(by, rate(of(name), window));
const quantiles = (name: string) =>
  ([0.5, 0.99] as const).map((q) => [quantile(q, "", of(`${name}_bucket`), window), `p${q * 100}`] as const);

export const operator: DashboardSpec = {
  uid: "pelagic-operator",
  title: "Pelagic / Operator",
  what: "The operator's rounds, its queue, its scaling and its calls. Alerts and what to do: docs/alerts.md.",
  variables: [],
  rows: [
    {
      title: "Leading",
      panels: [
        {
          title: "Leader",
          what: "1: this replica leads. None: no ModelService is followed; see whether the replicas reach the API server and their Lease.",
          unit: "none",
          queries: [[of("leader"), "{{pod}}"]],
        },
        {
          title: "ModelServices",
          what: "That the operator knows, and those whose last round failed: kubectl get ms -A says why.",
          unit: "short",
          queries: [
            [`max(${of("modelservices")})`, "known"],
            [`max(${of("queue_failing")})`, "failing"],
          ],
        },
        {
          title: "Silence of the API server",
          what: "Since a watch was last heard, by kind. Above 180 s the replica is not ready: see the API server and what lies between.",
          unit: "s",
          red: { above: 180 },
          queries: [[`max by (resource) (${of("informer_silent_seconds")})`, "{{resource}}"]],
        },
      ],
    },
    {
      title: "Rounds",
      panels: [
        {
          title: "Rounds",
          what: "By result. changed at rest: somebody else changes the same objects; refused and failed: events of the ModelService say why.",
          unit: "ops",
          stacked: true,
          queries: [[sumRate("reconciles_total", "result"), "{{result}}"]],
        },
        {
          title: "Seconds of a round",
          what: "Long: the API server is slow, see its calls.",
          unit: "s",
          queries: quantiles("reconcile_seconds"),
        },
        {
          title: "Queue",
          what: "ModelServices that wait for a round. Growing: rounds are too slow, or too many change at once.",
          unit: "short",
          queries: [[`max(${of("queue_depth")})`, "waiting"]],
        },
        {
          title: "Wait for a round",
          what: "From due to begun. Above a second: the queue is longer than its workers.",
          unit: "s",
          queries: quantiles("queue_wait_seconds"),
        },
      ],
    },
    {
      title: "Autoscaling",
      panels: [
        {
          title: "Workers wanted",
          what: "By pool, of ModelServices with an autoscaling policy. Empty with one: no figures yet; its Autoscaled condition says which are missing. At maxReplicas for long: raise it.",
          unit: "short",
          queries: [
            [
              `max by (modelservice_namespace, modelservice, pool) (${of("desired_replicas")})`,
              "{{modelservice_namespace}}/{{modelservice}} {{pool}}",
            ],
          ],
        },
        {
          title: "Looks at gateways and workers",
          what: "By result. failed for longer than a pod's start: a NetworkPolicy or a hanging process; until they answer nothing is scaled down.",
          unit: "ops",
          stacked: true,
          queries: [[sumRate("scrapes_total", "result"), "{{result}}"]],
        },
        {
          title: "Seconds of a look",
          what: "Three are the bound, and such a look has failed. Long: the gateways or workers have too little CPU.",
          unit: "s",
          queries: quantiles("scrape_seconds"),
        },
      ],
    },
    {
      title: "API server",
      panels: [
        {
          title: "Calls",
          what: "By verb and status; 0: no answer. 403: the operator's role lacks something; 429: the server asks for patience; 409 now and then is normal.",
          unit: "ops",
          queries: [[sumRate("api_requests_total", "verb, code"), "{{verb}} {{code}}"]],
        },
        {
          title: "Seconds of a call, p99",
          what: "Of a watch: until its answer begins. Long: the API server or its store is overloaded.",
          unit: "s",
          queries: [[quantile(0.99, "verb", of("api_request_seconds_bucket"), window), "{{verb}}"]],
        },
        {
          title: "Objects held",
          what: "By kind. The operator's memory follows them.",
          unit: "short",
          queries: [[`max by (resource) (${of("informer_objects")})`, "{{resource}}"]],
        },
        {
          title: "Whole lists",
          what: "Should stand still after the start; each is a watch that could not be gone on with.",
          unit: "ops",
          queries: [[sumRate("informer_lists_total", "resource"), "{{resource}}"]],
        },
        {
          title: "Ends of lists and watches",
          what: "closed is the server's habit every few minutes; cut, silent, refused and failed are faults between the two.",
          unit: "ops",
          queries: [[sumRate("informer_ends_total", "why"), "{{why}}"]],
        },
        {
          title: "Events that could not be sent",
          what: "People miss them in kubectl describe: the API server refuses or is away.",
          unit: "ops",
          queries: [[sumRate("events_dropped_total", ""), "events"]],
        },
      ],
    },
    {
      title: "Processes",
      panels: [
        {
          title: "Memory",
          what: "Resident. Growth with as many objects held is a leak.",
          unit: "bytes",
          queries: [[own("process_resident_memory_bytes"), "{{pod}}"]],
        },
        {
          title: "Event loop lag, p99",
          what: "Above seconds the Lease is lost: give the operator more CPU.",
          unit: "s",
          queries: [[own("nodejs_eventloop_lag_p99_seconds"), "{{pod}}"]],
        },
      ],
    },
  ],
};
