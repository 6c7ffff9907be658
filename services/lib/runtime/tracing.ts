// Traces to an OpenTelemetry collector, where the standard variables ask for it: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT
// name one, or OTEL_TRACES_EXPORTER=otlp means the one at the default address. OTLP over HTTP, as protobuf or JSON (OTEL_EXPORTER_OTLP_PROTOCOL);
// headers, timeouts and the sizes of batch and queue by their standard variables. Otherwise nothing is loaded and nothing is paid.
//
// Spans are placed by each process's own clocks (docs/decisions/0410-spans-nest-without-a-common-clock.md).
import { randomBytes } from "node:crypto";
import type { HrTime } from "@opentelemetry/api";
import type { ReadableSpan } from "@opentelemetry/sdk-trace-base";
import type { Log } from "../contracts/bus.ts";
import type { Span, Tracer } from "../contracts/trace.ts";

export interface ProcessTracer extends Tracer {
  /** Sends what is kept, or says that it could not; bounded by the exporter's own timeout. */
  close(): Promise<void>;
}

/** A collector that is away is complained of so often. */
const complaintGapMs = 60_000;

const protocols = { "http/protobuf": "proto", "http/json": "json" } as const;
type Encoding = (typeof protocols)[keyof typeof protocols];

/** How spans are to be encoded; null: not wanted, and where they were asked for in a way that this build does not know, why not. */
export function wantedEncoding(env: NodeJS.ProcessEnv): { encoding: Encoding | null; refusal?: string } {
  if (env.OTEL_SDK_DISABLED?.toLowerCase() === "true") return { encoding: null };
  const exporters = (env.OTEL_TRACES_EXPORTER ?? "").split(",").filter((name) => name.trim() !== "");
  const toOtlp = exporters.some((name) => name.trim() === "otlp");
  if (exporters.length > 0 && !toOtlp) {
    const isNone = exporters.every((name) => name.trim() === "none");
    return { encoding: null, ...(!isNone && { refusal: `OTEL_TRACES_EXPORTER=${env.OTEL_TRACES_EXPORTER}: "otlp" or "none" expected` }) };
  }
  if (!toOtlp && !env.OTEL_EXPORTER_OTLP_ENDPOINT && !env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) return { encoding: null };
  const protocol = env.OTEL_EXPORTER_OTLP_TRACES_PROTOCOL || env.OTEL_EXPORTER_OTLP_PROTOCOL || "http/protobuf";
  if (Object.hasOwn(protocols, protocol)) return { encoding: protocols[protocol as keyof typeof protocols] };
  return { encoding: null, refusal: `OTEL_EXPORTER_OTLP_PROTOCOL=${protocol}: "http/protobuf" or "http/json" expected` };
}

/** undefined: nobody wants traces. Spans beyond the queue's bound (OTEL_BSP_MAX_QUEUE_SIZE) are dropped. */
export async function startTracing(
  process: { name: string; id: string },
  env: NodeJS.ProcessEnv,
  log: Log,
): Promise<ProcessTracer | undefined> {
  const { encoding, refusal } = wantedEncoding(env);
  // Such variables are often set for all processes of a cluster: no reason not to serve.
  if (refusal !== undefined) log.warn({ refusal }, "nothing is traced");
  if (encoding === null) return undefined;
  const [
    { diag, DiagLogLevel, SpanKind, SpanStatusCode, TraceFlags },
    { BatchSpanProcessor },
    { OTLPTraceExporter },
    { resourceFromAttributes },
  ] = await Promise.all([
    import("@opentelemetry/api"),
    import("@opentelemetry/sdk-trace-base"),
    encoding === "proto" ? import("@opentelemetry/exporter-trace-otlp-proto") : import("@opentelemetry/exporter-trace-otlp-http"),
    import("@opentelemetry/resources"),
  ]);
  let complainedMs = Number.NEGATIVE_INFINITY;
  const complain = (error: unknown) => {
    if (performance.now() - complainedMs < complaintGapMs) return;
    complainedMs = performance.now();
    log.warn({ error: error instanceof Error ? error.message : String(error) }, "spans were not sent");
  };
  diag.setLogger({ error: complain, warn() {}, info() {}, debug() {}, verbose() {} }, DiagLogLevel.ERROR);
  const processor = new BatchSpanProcessor(new OTLPTraceExporter());
  const resource = resourceFromAttributes({
    "service.namespace": "pelagic",
    "service.name": env.OTEL_SERVICE_NAME ?? `pelagic-${process.name}`,
    "service.instance.id": process.id,
  });
  const kinds = { server: SpanKind.SERVER, client: SpanKind.CLIENT, internal: SpanKind.INTERNAL };
  const contextOf = (traceparent: string) => {
    const [, traceId, spanId, flags] = traceparent.split("-") as [string, string, string, string];
    return { traceId, spanId, traceFlags: Number.parseInt(flags, 16) & TraceFlags.SAMPLED };
  };
  log.info({ encoding }, "tracing to an OpenTelemetry collector");
  return {
    child(parent) {
      const [, traceId, , flags] = parent?.split("-") ?? ["", randomBytes(16).toString("hex"), "", "01"];
      return `00-${traceId}-${randomBytes(8).toString("hex")}-${flags}`;
    },
    report(span: Span) {
      const spanContext = contextOf(span.context);
      const readable: ReadableSpan = {
        name: span.name,
        kind: kinds[span.kind],
        spanContext: () => spanContext,
        ...(span.parent !== undefined && { parentSpanContext: contextOf(span.parent) }),
        startTime: wallTime(span.startMs),
        endTime: wallTime(span.endMs),
        duration: hrTime(span.endMs - span.startMs),
        status: span.failed === undefined ? { code: SpanStatusCode.UNSET } : { code: SpanStatusCode.ERROR, message: span.failed },
        attributes: span.attributes ?? {},
        links: [],
        events: [],
        ended: true,
        resource,
        instrumentationScope: { name: "pelagic" },
        droppedAttributesCount: 0,
        droppedEventsCount: 0,
        droppedLinksCount: 0,
      };
      processor.onEnd(readable);
    },
    close: () => processor.shutdown().catch(complain),
  };
}

/** Beyond this the wall clock was set, or the machine slept: spans go by the new time. Below it they keep one offset, so that they nest. */
const toleratedDriftMs = 100;
let originMs = performance.timeOrigin;

function wallTime(monotonicMs: number): HrTime {
  const nowMs = Date.now() - performance.now();
  if (Math.abs(nowMs - originMs) > toleratedDriftMs) originMs = nowMs;
  return hrTime(originMs + monotonicMs);
}

function hrTime(ms: number): HrTime {
  const seconds = Math.floor(ms / 1000);
  return [seconds, Math.round((ms - seconds * 1000) * 1e6)];
}
