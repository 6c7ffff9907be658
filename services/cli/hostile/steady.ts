// A client that wants nothing special, the same streamed answer again and again: whatever others do, it is whole and the same.
import type { Client } from "./client.ts";
import { streamFault } from "./judge.ts";

export interface SteadyReport {
  streams: number;
  faults: string[];
  slowestSeconds: number;
}

const mostFaults = 5;

export class SteadyClient {
  private readonly client: Client;
  private readonly body: string;
  private running = true;
  private readonly done: Promise<void>;
  private expected: string | null = null;
  readonly report: SteadyReport = { streams: 0, faults: [], slowestSeconds: 0 };

  constructor(client: Client, model: string) {
    this.client = client;
    this.body = JSON.stringify({
      model,
      prompt: "The same words again: 1 + 2 =",
      max_tokens: 24,
      temperature: 0,
      ignore_eos: true,
      stream: true,
    });
    this.done = this.run();
  }

  /** The streams that have begun end first. */
  async stop(): Promise<SteadyReport> {
    this.running = false;
    await this.done;
    return this.report;
  }

  private async run(): Promise<void> {
    while (this.running) {
      const begunMs = performance.now();
      const fault = await this.once().catch((error: unknown) => String(error));
      const seconds = (performance.now() - begunMs) / 1000;
      this.report.streams++;
      this.report.slowestSeconds = Math.max(this.report.slowestSeconds, Math.round(seconds * 1000) / 1000);
      if (fault !== null && this.report.faults.length < mostFaults) this.report.faults.push(fault);
    }
  }

  private async once(): Promise<string | null> {
    const reply = await this.client.send("POST", "/v1/completions", this.body);
    if (reply.status !== 200) return `${reply.status}: ${reply.text.slice(0, 300)}`;
    const fault = streamFault(reply.text);
    if (fault !== null) return fault;
    const text = reply.text
      .split("\n\n")
      .filter((event) => event.startsWith("data: {"))
      .map((event) => (JSON.parse(event.slice(6)) as { choices?: { text?: string }[] }).choices?.[0]?.text ?? "")
      .join("");
    this.expected ??= text;
    return text === this.expected ? null : `another answer than before: ${JSON.stringify(text)}`;
  }
}
