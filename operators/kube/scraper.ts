// Asks processes for their metrics, or for JSON beside them, over HTTP: several at once, each within bounds, since who is asked may hang, or answer without end.
import { setMaxListeners } from "node:events";
import { request } from "node:http";
import { within } from "../../services/lib/runtime/within.ts";
import type { Series } from "../autoscale/metrics-text.ts";
import type { ScrapeTarget } from "../autoscale/pool-pods.ts";
import { readMetrics } from "../autoscale/scrape.ts";

export interface Scraped {
  /** By the targets' keys. */
  series: Map<string, Series>;
  /** Why who gave none did not. */
  failures: Map<string, string>;
}

export interface Asked<T> {
  /** By the targets' keys. */
  answers: Map<string, T>;
  /** Why who gave none did not. */
  failures: Map<string, string>;
}

export interface ScraperObserver {
  scraped(result: "ok" | "failed", seconds: number): void;
}

const timeoutMs = 3_000;
const maxBytes = 8 * 1024 * 1024;
const atOnce = 32;

export class Scraper {
  constructor(private readonly observer: ScraperObserver) {}

  /** Never rejects. */
  async scrape(targets: readonly ScrapeTarget[], signal: AbortSignal): Promise<Scraped> {
    const { answers, failures } = await this.ask(targets, "/metrics", readMetrics, signal);
    return { series: answers, failures };
  }

  /** Never rejects; what cannot be read is a failure. */
  async ask<T>(targets: readonly ScrapeTarget[], path: string, read: (text: string) => T, signal: AbortSignal): Promise<Asked<T>> {
    const asked: Asked<T> = { answers: new Map(), failures: new Map() };
    const left = [...targets];
    // Each that is asked listens.
    setMaxListeners(0, signal);
    const work = async () => {
      for (let target = left.shift(); target !== undefined; target = left.shift()) {
        const begunMs = performance.now();
        let result: "ok" | "failed" = "ok";
        try {
          asked.answers.set(target.key, read(await within(timeoutMs, signal, (bounded) => this.get(target, path, bounded))));
        } catch (error) {
          result = "failed";
          asked.failures.set(target.key, why(error));
        }
        this.observer.scraped(result, (performance.now() - begunMs) / 1000);
      }
    };
    await Promise.all(Array.from({ length: atOnce }, work));
    return asked;
  }

  /** Redirects are not followed: only the pod itself is asked. */
  private get({ host, port }: ScrapeTarget, path: string, signal: AbortSignal): Promise<string> {
    return new Promise((resolve, reject) => {
      const sent = request({ host, port, path, agent: false, signal }, (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        if (response.statusCode !== 200) {
          response.destroy();
          reject(new Error(`status ${response.statusCode}`));
          return;
        }
        response.on("data", (chunk: Buffer) => {
          bytes += chunk.length;
          chunks.push(chunk);
          if (bytes > maxBytes) response.destroy(new Error(`more than ${maxBytes} bytes`));
        });
        response.on("error", reject);
        response.on("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
      });
      sent.on("error", reject);
      sent.end();
    });
  }
}

function why(error: unknown): string {
  const { name = "", message = "", code = "" } = error as { name?: string; message?: string; code?: string };
  return name === "AbortError" ? `no answer within ${timeoutMs / 1000} s` : code || message;
}
