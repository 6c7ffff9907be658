// When a process traces, as what, and what it costs otherwise: nothing.
import { execFileSync } from "node:child_process";
import { afterEach, describe, expect, it, vi } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import type { Log } from "../../services/lib/contracts/bus.ts";
import { silentLog } from "../../services/lib/contracts/bus.ts";
import { parentOf } from "../../services/lib/contracts/trace.ts";
import { startTracing, wantedEncoding } from "../../services/lib/runtime/tracing.ts";
import { OtlpReceiver } from "../support/otlp-receiver.ts";

afterEach(() => vi.unstubAllEnvs());

describe("the standard variables", () => {
  const endpoint = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://collector:4318" };
  it.each([
    [{}, null],
    [endpoint, "proto"],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "http://collector:4318/v1/traces" }, "proto"],
    [{ OTEL_TRACES_EXPORTER: "otlp" }, "proto"],
    [{ ...endpoint, OTEL_TRACES_EXPORTER: "otlp" }, "proto"],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }, "json"],
    [{ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "grpc", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: "http/protobuf" }, "proto"],
    [{ ...endpoint, OTEL_TRACES_EXPORTER: "none" }, null],
    [{ ...endpoint, OTEL_SDK_DISABLED: "true" }, null],
    [{ OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }, null],
  ])("%j: %s", (env, encoding) => {
    expect(wantedEncoding(env)).toEqual({ encoding });
  });

  it.each([
    [{ ...endpoint, OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"],
    [{ OTEL_TRACES_EXPORTER: "zipkin" }, "OTEL_TRACES_EXPORTER=zipkin"],
  ])("%j is refused in words, and nobody traces", async (env, words) => {
    const warn = vi.fn();
    expect(await startTracing({ name: "test", id: "test-0" }, env, { ...silentLog, warn } as Log)).toBeUndefined();
    expect(JSON.stringify(warn.mock.calls)).toContain(words);
  });

  it("unset: no package of OpenTelemetry is loaded", () => {
    const script = `
      import { createRequire } from "node:module";
      const { startTracing } = await import(${JSON.stringify(inTree("dist", "services", "lib", "runtime", "tracing.js"))});
      const log = { info() {}, warn() {} };
      const loaded = () => Object.keys(createRequire(import.meta.url).cache).filter((path) => path.includes("opentelemetry")).length;
      const off = await startTracing({ name: "test", id: "test-0" }, {}, log);
      const before = loaded();
      const on = await startTracing({ name: "test", id: "test-0" }, { OTEL_TRACES_EXPORTER: "otlp" }, log);
      console.log(JSON.stringify({ off: off === undefined, before, on: on !== undefined, after: loaded() > 0 }));
      process.exit(0);`;
    const said = execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    expect(JSON.parse(said)).toEqual({ off: true, before: 0, on: true, after: true });
  });
});

describe("a tracer", () => {
  const span = { name: "work", kind: "internal", parent: undefined, startMs: 1_000, endMs: 1_250.5 } as const;

  it.each(["http/json", "http/protobuf"])("sends spans by %s, with their lengths, attributes and errors", async (protocol) => {
    const receiver = new OtlpReceiver();
    vi.stubEnv("OTEL_EXPORTER_OTLP_ENDPOINT", await receiver.start());
    vi.stubEnv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    const tracer = await startTracing({ name: "test", id: "test-0" }, process.env, silentLog);
    const root = tracer?.child(undefined) as string;
    const context = tracer?.child(root) as string;
    tracer?.report({ ...span, context, parent: root, attributes: { text: "a", count: 3, share: 0.5, yes: true }, failed: "worker_lost" });
    tracer?.report({ ...span, context: tracer.child("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00") });
    await tracer?.close();
    receiver.close();
    const [, traceId, spanId] = context.split("-");
    expect(receiver.spans).toHaveLength(1);
    expect(receiver.spans[0]).toMatchObject({
      ...{ service: "pelagic-test", name: "work", traceId, spanId, parentSpanId: root.split("-")[2] },
      ...{ seconds: 0.2505, attributes: { text: "a", count: 3, share: 0.5, yes: true }, message: "worker_lost" },
    });
  });

  it("keeps no more spans than its queue and a batch hold", async () => {
    const receiver = new OtlpReceiver();
    vi.stubEnv("OTEL_EXPORTER_OTLP_ENDPOINT", await receiver.start());
    vi.stubEnv("OTEL_BSP_MAX_QUEUE_SIZE", "100");
    vi.stubEnv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100");
    const tracer = await startTracing({ name: "test", id: "test-0" }, process.env, silentLog);
    for (let i = 0; i < 1_000; i++) tracer?.report({ ...span, context: tracer.child(undefined) });
    await tracer?.close();
    receiver.close();
    expect(receiver.spans).toHaveLength(200);
  });

  it("ends though nobody answers, and says so once", async () => {
    vi.stubEnv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
    vi.stubEnv("OTEL_EXPORTER_OTLP_TIMEOUT", "200");
    const warn = vi.fn();
    const tracer = await startTracing({ name: "test", id: "test-0" }, process.env, { ...silentLog, warn } as Log);
    tracer?.report({ ...span, context: tracer.child(undefined) });
    await tracer?.close();
    expect(warn.mock.calls).toEqual([[expect.objectContaining({ error: expect.anything() }), "spans were not sent"]]);
  });
});

describe("a client's traceparent", () => {
  const ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
  it.each([
    [`00-${ids}-01`, `00-${ids}-01`],
    [`00-${ids}-00`, `00-${ids}-00`],
    [`00-${ids}-03`, `00-${ids}-01`],
    [`cc-${ids}-01-what-will-be`, `00-${ids}-01`],
    [`cc-${ids}-09`, `00-${ids}-01`],
    [`00-${ids}-01-more`, undefined],
    [`ff-${ids}-01`, undefined],
    [`00-${ids.toUpperCase()}-01`, undefined],
    [`00-${"0".repeat(32)}-b7ad6b7169203331-01`, undefined],
    [`00-0af7651916cd43dd8448eb211c80319c-${"0".repeat(16)}-01`, undefined],
    ["", undefined],
    [undefined, undefined],
  ])("%s: %s", (header, parent) => {
    expect(parentOf(header)).toBe(parent);
  });
});
