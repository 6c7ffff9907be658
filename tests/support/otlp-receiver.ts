// A receiver of OTLP over HTTP, as a collector is one: takes what exporters POST to /v1/traces, as protobuf or JSON, and keeps the spans. It reads
// protobuf by the field numbers of opentelemetry-proto (trace/v1/trace.proto) and knows nothing of the exporters' packages.
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { gunzipSync } from "node:zlib";

export interface ReceivedSpan {
  service: string;
  traceId: string;
  spanId: string;
  parentSpanId: string;
  name: string;
  startNs: bigint;
  endNs: bigint;
  seconds: number;
  attributes: Record<string, string | number | boolean>;
  /** Of an error. */
  message: string | undefined;
}

export class OtlpReceiver {
  readonly spans: ReceivedSpan[] = [];
  readonly contentTypes = new Set<string>();
  private server: Server | undefined;

  async start(): Promise<string> {
    this.server = createServer((request, response) => {
      const chunks: Buffer[] = [];
      request.on("data", (chunk: Buffer) => chunks.push(chunk));
      request.on("end", () => {
        const type = request.headers["content-type"] ?? "";
        if (request.method !== "POST" || request.url !== "/v1/traces") return void response.writeHead(404).end();
        const body = request.headers["content-encoding"] === "gzip" ? gunzipSync(Buffer.concat(chunks)) : Buffer.concat(chunks);
        this.contentTypes.add(type);
        this.spans.push(...(type === "application/json" ? spansOfJson(body.toString()) : spansOfProtobuf(body)));
        response.writeHead(200, { "content-type": type }).end(type === "application/json" ? "{}" : "");
      });
    });
    const { server } = this;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.server?.close();
    this.server?.closeAllConnections();
  }

  of(traceId: string | null): ReceivedSpan[] {
    return this.spans.filter((span) => span.traceId === traceId);
  }
}

function finished(span: Omit<ReceivedSpan, "seconds">): ReceivedSpan {
  return { ...span, seconds: Number(span.endNs - span.startNs) / 1e9 };
}

type JsonAttribute = { key: string; value: Record<string, string | number | boolean> };
interface JsonTraces {
  resourceSpans: {
    resource: { attributes: JsonAttribute[] };
    scopeSpans: {
      spans: {
        traceId: string;
        spanId: string;
        parentSpanId?: string;
        name: string;
        startTimeUnixNano: string;
        endTimeUnixNano: string;
        attributes: JsonAttribute[];
        status: { message?: string };
      }[];
    }[];
  }[];
}

function spansOfJson(body: string): ReceivedSpan[] {
  const valuesOf = (all: JsonAttribute[]) =>
    Object.fromEntries(all.map(({ key, value }) => [key, Object.values(value)[0] as string | number | boolean]));
  return (JSON.parse(body) as JsonTraces).resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) =>
      spans.map(({ traceId, spanId, parentSpanId = "", name, startTimeUnixNano, endTimeUnixNano, attributes, status }) =>
        finished({
          service: String(valuesOf(resource.attributes)["service.name"]),
          ...{ traceId, spanId, parentSpanId, name, startNs: BigInt(startTimeUnixNano), endNs: BigInt(endTimeUnixNano) },
          ...{ attributes: valuesOf(attributes), message: status.message },
        }),
      ),
    ),
  );
}

/** A message's fields: of each number its values in order, lengths resolved to bytes. */
class Fields {
  private readonly values = new Map<number, (bigint | Buffer)[]>();

  constructor(bytes: Buffer) {
    let at = 0;
    const varint = () => {
      let value = 0n;
      for (let shift = 0n; ; shift += 7n) {
        const byte = bytes.readUInt8(at++);
        value |= BigInt(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
      }
    };
    const take = (length: number) => {
      at += length;
      if (at > bytes.length) throw new Error(`a field of ${length} bytes goes beyond its message`);
      return bytes.subarray(at - length, at);
    };
    while (at < bytes.length) {
      const tag = Number(varint());
      const kind = tag & 7;
      if (![0, 1, 2, 5].includes(kind)) throw new Error(`wire type ${kind}`);
      const value = kind === 0 ? varint() : kind === 1 ? take(8) : kind === 5 ? take(4) : take(Number(varint()));
      this.values.set(tag >> 3, [...(this.values.get(tag >> 3) ?? []), value]);
    }
  }

  bytes(field: number): Buffer[] {
    return (this.values.get(field) ?? []) as Buffer[];
  }

  messages(field: number): Fields[] {
    return this.bytes(field).map((bytes) => new Fields(bytes));
  }

  hex(field: number): string {
    return this.bytes(field)[0]?.toString("hex") ?? "";
  }

  text(field: number): string | undefined {
    return this.bytes(field)[0]?.toString("utf8");
  }

  fixed64(field: number): bigint {
    return this.bytes(field)[0]?.readBigUInt64LE() ?? 0n;
  }

  varint(field: number): bigint | undefined {
    return this.values.get(field)?.[0] as bigint | undefined;
  }
}

/** KeyValue: key 1, value 2; AnyValue: string 1, bool 2, int 3, double 4. */
function attributesOf(all: Fields[]): ReceivedSpan["attributes"] {
  return Object.fromEntries(
    all.map((one) => {
      const [value] = one.messages(2);
      const integer = value?.varint(3);
      return [
        one.text(1) ?? "",
        value?.text(1) ?? (integer === undefined ? (value?.bytes(4)[0]?.readDoubleLE() ?? value?.varint(2) === 1n) : Number(integer)),
      ];
    }),
  );
}

/** ExportTraceServiceRequest: resource spans 1; ResourceSpans: resource 1, scope spans 2; ScopeSpans: spans 2. */
function spansOfProtobuf(body: Buffer): ReceivedSpan[] {
  return new Fields(body).messages(1).flatMap((resourceSpans) => {
    const resource = attributesOf(resourceSpans.messages(1)[0]?.messages(1) ?? []);
    return resourceSpans
      .messages(2)
      .flatMap((scope) => scope.messages(2))
      .map((span) =>
        finished({
          service: String(resource["service.name"]),
          ...{ traceId: span.hex(1), spanId: span.hex(2), parentSpanId: span.hex(4), name: span.text(5) ?? "" },
          ...{ startNs: span.fixed64(7), endNs: span.fixed64(8), attributes: attributesOf(span.messages(9)) },
          message: span.messages(15)[0]?.text(2),
        }),
      );
  });
}
