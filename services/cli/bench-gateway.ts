// bench gateway: what our gateway adds to a request, beside the same request as a bare dispatch over NATS, and beside what nginx and a published
// gateway add to one over HTTP; or with --streams, how it carries many streams at once, some of whose readers stall.
import { cpus } from "node:os";
import { type Command, Option } from "commander";
import { quantile } from "../../loadtest/summary.ts";
import { type Latency, measureLatency, measureSaturation, type Saturation, warmUp } from "./bench-gateway/measure.ts";
import { runStreams, type StreamsResult } from "./bench-gateway/streams.ts";
import { stubWorkerId, withPeers, withStubStack } from "./bench-gateway/surroundings.ts";
import { type Carried, coreTargets, latencyTargets, type StreamsRun, streamsTargets } from "./bench-gateway/targets.ts";
import { httpWay, natsWay, type Way } from "./bench-gateway/ways.ts";
import { Workload } from "./bench-gateway/workload.ts";
import { type BenchRow, type BenchTarget, commit, printReport } from "./bench-report.ts";
import { prepareFirst } from "./prepare.ts";
import { embeddedModel } from "./stack/model-folder.ts";
import { count } from "./up.ts";

interface Options {
  model?: string;
  rounds: number;
  concurrency: number;
  seconds: number;
  streams?: number;
  stalled: number;
  json?: boolean;
}

type Progress = (text: string) => void;

interface Part {
  rows: BenchRow[];
  targets: BenchTarget[];
}

const promptTokens = 1_000;
const answerTokens = 64;
/** Between two tokens of a stream: one stream at a time; enough streams to take all the processor there is; and many that it can carry. */
const stepMs = { latency: 2, saturation: 10, streams: 250 };
/** Until V8 has compiled what runs: beside load that takes half a minute, in which its compiler takes a third of what is measured. */
const warmUpMs = 45_000;
const warm = { concurrency: 32, forMs: 5_000 };
/** So that a stalled reader's stream ends while the others still run. */
const stallMs = 4_000;
const resumed = 10;
const mib = 1024 * 1024;

export function register(bench: Command): void {
  bench
    .command("gateway")
    .description("what the gateway adds to a stream and takes of a core, beside bare NATS, nginx and a published gateway")
    .option("--model <dir>", "model folder, for its tokenizer (default: the model in the box)")
    .option("--rounds <n>", "requests by each way, one at a time", count(10, 100_000), 300)
    .option("--concurrency <n>", "streams at once by each way, for the rate", count(1, 4_096), 512)
    .option("--seconds <n>", "how long the rate of each way is measured", count(1, 600), 10)
    .addOption(
      new Option("--streams [n]", "instead: so many streams at once (2000), without and with readers that stall")
        .argParser(count(1, 4_000))
        .preset("2000"),
    )
    .option("--stalled <n>", "of these, how many readers stall", count(0, 1_000), 100)
    .option("--json", "print the report as JSON")
    .addHelpText("after", "\nExamples:\n  ./pelagic bench gateway --json\n  ./pelagic bench gateway --streams")
    .action(async (options: Options) => {
      await prepareFirst();
      const progress: Progress = (text) => options.json || process.stderr.write(`${text}\n`);
      const model = options.model ?? embeddedModel();
      const workload = new Workload(model, promptTokens, answerTokens);
      progress(`prompts of ${workload.promptTokens} tokens, answers of ${answerTokens}`);
      const parts =
        options.streams === undefined
          ? [await latencyPart(model, workload, options, progress), await saturationPart(model, workload, options, progress)]
          : [await streamsPart(model, workload, options.streams, options.stalled, progress)];
      const [rows, targets] = [parts.flatMap((part) => part.rows), parts.flatMap((part) => part.targets)];
      const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${cpus().length} cores`;
      printReport({ bench: "gateway", machine, commit: commit(), rows, targets }, options.json);
    });
}

/** The ceiling of what is added is what the same request takes without it. Added is the difference of two quantiles, not a quantile of differences. */
function latencyPart(model: string, workload: Workload, { rounds }: Options, progress: Progress): Promise<Part> {
  return withPeers(model, stepMs.latency, progress, (peers) =>
    withStubStack(model, stepMs.latency, {}, async ({ nats, url }) => {
      for (const what of peers.missing) progress(`left out: ${what}`);
      progress(`one stream at a time, ${rounds} rounds`);
      const bare = natsWay("bare NATS", nats, stubWorkerId, workload);
      const ours = httpWay("gateway", { url }, workload);
      const direct = httpWay("direct HTTP", peers.direct, workload);
      const others = peers.peers.map(({ name, target }) => httpWay(name, target, workload));
      const ways = [bare, ours, direct, ...others];
      await warmUp(ways, warm);
      const latencies = await measureLatency(ways, rounds);
      const of = (way: Way) => latencies.get(way) as Latency;
      const added = (way: Way, base: Way, which: keyof Latency, q: number) => quantile(of(way)[which], q) - quantile(of(base)[which], q);
      const rows = [[ours, bare] as const, ...others.map((other) => [other, direct] as const)].flatMap(([way, base]) =>
        (["firstMs", "totalMs"] as const).flatMap((which) =>
          [0.5, 0.99].map((q) => {
            const what = `${way.name}: p${q * 100} of the ${which === "firstMs" ? "first token" : "end"}, more than by ${base.name}`;
            return row(what, added(way, base, which, q), "ms", quantile(of(base)[which], q));
          }),
        ),
      );
      const targets = latencyTargets({ firstMs: added(ours, bare, "firstMs", 0.5), totalMs: added(ours, bare, "totalMs", 0.5) });
      return { rows, targets };
    }),
  );
}

/** The ceiling of streams a core is nginx's, where it was to be had. */
function saturationPart(model: string, workload: Workload, options: Options, progress: Progress): Promise<Part> {
  return withPeers(model, stepMs.saturation, progress, (peers) =>
    withStubStack(model, stepMs.saturation, {}, async ({ nats, url, pids }) => {
      const measured = new Map<string, Saturation>();
      const saturate = async (way: Way, processes: Record<string, number>) => {
        progress(`${options.concurrency} streams at once: ${way.name}`);
        const window = { concurrency: options.concurrency, warmUpMs, forMs: options.seconds * 1000 };
        measured.set(way.name, await measureSaturation(way, { ...window, pids: processes }));
      };
      const { gateway, nats: server, stub } = pids;
      await saturate(httpWay("gateway", { url }, workload), { itself: gateway, server, stub });
      await saturate(natsWay("bare NATS", nats, stubWorkerId, workload), { server, stub });
      for (const { name, target, pid } of peers.peers) await saturate(httpWay(name, target, workload), { itself: pid });
      const aCore = (name: string) => 1 / (measured.get(name)?.cpuSeconds.itself ?? Number.NaN);
      const rows = [...measured].flatMap(([name, { cpuSeconds, residentBytes, pieces, streamsPerSecond }]) => {
        const seconds = Object.entries(cpuSeconds).map(([process, value]) => `${process} ${(value * 1000).toFixed(2)}`);
        progress(`${name}: ${streamsPerSecond.toFixed(0)} streams/s; processor ms a stream: ${seconds.join(", ")}`);
        const shared = row(`${name}: pieces that ${answerTokens} tokens come in`, pieces, "", answerTokens);
        if (cpuSeconds.itself === undefined) return [shared];
        const memory = (residentBytes.itself ?? Number.NaN) / mib;
        return [
          row(`${name}: streams a core`, aCore(name), "streams/s", aCore(measured.has("nginx") ? "nginx" : name)),
          shared,
          row(`${name}: memory`, memory, "MiB", memory),
        ];
      });
      const carried = (name: string | undefined): Carried | null => {
        const one = name === undefined ? undefined : measured.get(name);
        return one === undefined || name === undefined ? null : { streamsACore: aCore(name), pieces: one.pieces };
      };
      const [published] = peers.peers.filter(({ name }) => name !== "nginx");
      const ours = carried("gateway") as Carried;
      return { rows, targets: coreTargets({ ours, nginx: carried("nginx"), published: carried(published?.name) }) };
    }),
  );
}

/** The same readers beside others that read, then beside some that stall. The ceiling of jitter is that of bare NATS in the same run. */
async function streamsPart(model: string, workload: Workload, streams: number, stalled: number, progress: Progress): Promise<Part> {
  const rows: BenchRow[] = [];
  const runs: StreamsRun[] = [];
  const reading = streams - stalled;
  for (const [what, also] of [
    [`${streams} streams`, stalled],
    [`${reading} streams beside ${stalled} stalled`, 0],
  ] as const) {
    const isStalled = also === 0;
    progress(what);
    const result = await withStubStack(model, stepMs.streams, { PELAGIC_STALL_MS: String(stallMs) }, (all) =>
      runStreams(all, workload, {
        streams: reading + also,
        stalled: isStalled ? stalled : 0,
        resumed: isStalled ? Math.min(resumed, stalled) : 0,
        resumeAfterMs: stallMs / 2,
        stepMs: stepMs.streams,
      }),
    );
    progress(describe(result));
    runs.push({ asked: reading + also, right: result.firstMs.length, jitterP99Ms: quantile(result.jitterMs, 0.99) });
    rows.push(
      row(`${what}: right and whole`, result.firstMs.length, "streams", reading + also),
      ...([0.5, 0.99] as const).map((q) =>
        row(`${what}: jitter, p${q * 100}`, quantile(result.jitterMs, q), "ms", quantile(result.bareJitterMs, q)),
      ),
      row(`${what}: first token, p99`, quantile(result.firstMs, 0.99), "ms", quantile(result.firstMs, 0.5)),
      row(`${what}: gateway's memory`, result.gateway.peakBytes / mib, "MiB", result.gateway.peakBytes / mib),
    );
  }
  return { rows, targets: streamsTargets(runs[0] as StreamsRun, runs[1] as StreamsRun) };
}

function describe({ wrong, stalledEnds, gateway, seconds }: StreamsResult): string {
  const ends = Object.entries(stalledEnds).map(([outcome, number]) => `${number} ${outcome}`);
  const lines = [
    `${seconds.toFixed(1)} s, of which ${gateway.cpuSeconds.toFixed(1)} s of processor in the gateway; it grew by ${(gateway.grownBytes / mib).toFixed(0)} MiB`,
    ...(ends.length > 0 ? [`stalled readers' streams: ${ends.join(", ")}`] : []),
    ...wrong.slice(0, 5).map((what) => `wrong: ${what}`),
  ];
  return lines.join("\n");
}

function row(what: string, value: number, unit: string, ceiling: number): BenchRow {
  const round = (x: number) => Number(x.toPrecision(4));
  return { what, value: round(value), unit, ceiling: round(ceiling), ratio: round(value / ceiling) };
}
