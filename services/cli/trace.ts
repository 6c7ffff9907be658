// ./pelagic trace: where one request's time went, drawn in the terminal.
import type { Command } from "commander";
import { z } from "zod";
import { RequestTimeline } from "../lib/contracts/timeline.ts";
import { CliError, messageOf } from "./cli-error.ts";
import { runningInstance } from "./instances.ts";
import { formatTable } from "./terminal.ts";
import { portNumber } from "./up.ts";

const timeoutMs = 5_000;
const Requests = z.object({ requests: z.array(RequestTimeline) });

export function register(program: Command): void {
  program
    .command("trace")
    .description("show where a request's time went")
    .argument("[request-id]", "the x-request-id of its answer; without one, the last requests are listed")
    .option("--port <port>", "the instance on this port", portNumber)
    .option("--json", "as JSON")
    .addHelpText(
      "after",
      "\nThe gateway keeps the last 1,000 requests. With OTEL_EXPORTER_OTLP_ENDPOINT set, every process also sends its spans to a collector.\n\nExample:\n  ./pelagic trace req-0b0c7a9e-…",
    )
    .action(trace);
}

async function trace(requestId: string | undefined, options: { port?: number; json?: boolean }): Promise<void> {
  const instance = runningInstance(options.port);
  if (!instance) throw new CliError("nothing is running here: ./pelagic up starts it");
  let requests: RequestTimeline[];
  try {
    const response = await fetch(`http://127.0.0.1:${instance.adminPort}/requests`, { signal: AbortSignal.timeout(timeoutMs) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    ({ requests } = Requests.parse(await response.json()));
  } catch (error) {
    throw new CliError(`the gateway on port ${instance.port} does not answer (${messageOf(error)}): its log is in ${instance.runDir}/logs`);
  }
  if (requestId === undefined) {
    process.stdout.write(options.json ? `${JSON.stringify({ requests })}\n` : `${requestTable(requests)}\n`);
    return;
  }
  const found = requests.find((request) => request.requestId === requestId);
  if (found === undefined) {
    throw new CliError(`no request ${requestId} among the last ${requests.length} that ended: ./pelagic trace lists them`);
  }
  process.stdout.write(options.json ? `${JSON.stringify(found)}\n` : `${drawTimeline(found)}\n`);
}

const milliseconds = (seconds: number) => `${(seconds * 1000).toFixed(seconds < 0.1 ? 2 : 0)} ms`;

function requestTable(requests: readonly RequestTimeline[]): string {
  return formatTable(
    ["request", "endpoint", "model", "outcome", "arrived", "first token", "total", "prompt", "cached", "answer"],
    requests
      .slice(0, 30)
      .map((one) => [
        one.requestId,
        one.endpoint,
        one.model ?? "-",
        one.outcome,
        one.arrivedAt.slice(11, 23),
        one.ttftSeconds === null ? "-" : milliseconds(one.ttftSeconds),
        milliseconds(one.seconds),
        one.promptTokens,
        one.cachedTokens,
        one.completionTokens,
      ]),
  );
}

const barWidth = 60;

const indents = { gateway: "", decode: "  ", prefill: "    " };
const fills = { gateway: "█", decode: "▒", prefill: "░" };

/** A bar for each phase, over the time from the request's arrival to its end. */
export function drawTimeline(timeline: RequestTimeline): string {
  const { phases, seconds } = timeline;
  const names = phases.map(({ name, process, workerId }) => `${indents[process]}${workerId === undefined ? "" : `${workerId}: `}${name}`);
  const width = Math.max(0, ...names.map((name) => name.length));
  const column = (at: number) => Math.min(barWidth, Math.max(0, Math.round((at / Math.max(seconds, 1e-9)) * barWidth)));
  const rows = phases.map(({ startSeconds, seconds: length, process }, i) => {
    const from = Math.min(column(startSeconds), barWidth - 1);
    const to = Math.max(from + 1, column(startSeconds + length));
    const bar = " ".repeat(from) + fills[process].repeat(to - from);
    return `${(names[i] as string).padEnd(width)}  ${bar.padEnd(barWidth)}  ${milliseconds(length).padStart(9)}`;
  });
  const { decodeWorkerId, prefillWorkerId, ttftSeconds } = timeline;
  const workers =
    decodeWorkerId === null ? "no worker" : `${decodeWorkerId}${prefillWorkerId === null ? "" : `, prompt by ${prefillWorkerId}`}`;
  const rate = ttftSeconds === null ? "" : `, first token after ${milliseconds(ttftSeconds)}`;
  return [
    `${timeline.requestId}  ${timeline.endpoint}  ${timeline.outcome}  ${timeline.model ?? "no model"}  ${timeline.arrivedAt}`,
    `${timeline.promptTokens} prompt tokens (${timeline.cachedTokens} cached), ${timeline.completionTokens} answered; ${workers}${timeline.resumes > 0 ? `; moved ${timeline.resumes === 1 ? "once" : `${timeline.resumes} times`}` : ""}`,
    `${milliseconds(seconds)}${rate}${timeline.traceId === null ? "" : `; trace ${timeline.traceId}`}`,
    "",
    ...rows,
  ].join("\n");
}
