// Traces to an OpenTelemetry collector, where the standard variables name one (OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT,
// OTLP over HTTP; OTEL_TRACES_EXPORTER=none or OTEL_SDK_DISABLED=true: off). Without one nothing is loaded and nothing is paid.
//
// Spans are placed by each process's own clocks: lengths are monotonic; where processes run on different machines, their offsets are as good as
// the machines' agreement on the time.
import { randomBytes } from "node:crypto";
import type { HrTime } from "@opentelemetry/api";
import type { ReadableSpan } from "@opentelemetry/sdk-trace-base";
import type { Log } from "../contracts/bus.ts";
import type { Span, Tracer } from "../contracts/trace.ts";

export interface ProcessTracer extends Tracer {
  /** Sends what is kept; bounded by the exporter's own timeout. */
  close(): Promise<void>;
}

export function tracingWanted(env: NodeJS.ProcessEnv): boolean {
  if (env.OTEL_SDK_DISABLED === "true" || env.OTEL_TRACES_EXPORTER === "none") return false;
  return Boolean(env.OTEL_EXPORTER_OTLP_ENDPOINT || env.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT);
}

/** undefined: nobody wants traces. Spans beyond the queue's bound (OTEL_BSP_MAX_QUEUE_SIZE) are dropped. */
export async function startTracing(
  process: { name: string; id: string },
  env: NodeJS.ProcessEnv,
  log: Log,
): Promise<ProcessTracer | undefined> {
  if (!tracingWanted(env)) return undefined;
  const [{ SpanKind, SpanStatusCode, TraceFlags }, { BatchSpanProcessor }, { OTLPTraceExporter }, { resourceFromAttributes }] =
    await Promise.all([
      import("@opentelemetry/api"),
      import("@opentelemetry/sdk-trace-base"),
      import("@opentelemetry/exporter-trace-otlp-http"),
      import("@opentelemetry/resources"),
    ]);
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
  log.info({}, "tracing to the OpenTelemetry collector");
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
    close: () => processor.shutdown(),
  };
}

function wallTime(monotonicMs: number): HrTime {
  return hrTime(performance.timeOrigin + monotonicMs);
}

function hrTime(ms: number): HrTime {
  const seconds = Math.floor(ms / 1000);
  return [seconds, Math.round((ms - seconds * 1000) * 1e6)];
}
