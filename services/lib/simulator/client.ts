// The users of a run: each reads one answer to its end, or leaves before.
import { PelagicError } from "../contracts/errors.ts";
import type { PromptScores } from "../contracts/prompt-scores.ts";
import type { Generation } from "../../gateway/generation.ts";
import type { RequestRouting } from "../../gateway/request-routing.ts";
import type { SimGateway } from "./nodes.ts";
import type { SimRequest } from "./scenario.ts";
import type { Node } from "./world.ts";

/** How the cluster stands, as seen from a gateway. */
export interface ClusterView {
  /** Somebody can serve a request, and could since this time. */
  couldServe(startedMs: number, gateway: Node): boolean;
  /** Somebody whose bits these are is well. */
  couldResume(numericsId: string, gateway: Node): boolean;
}

export class Client {
  readonly request: SimRequest;
  readonly tokens: number[] = [];
  readonly digests: string[] = [];
  readonly logprobs: number[] = [];
  /** With its first token, all of them. */
  scores: string[] = [];
  outcome = "not begun";
  message = "";
  isOver = false;
  /** Its gateway died: its connection with it. */
  forgiven = false;
  clockHasJumped = false;
  /** At its end: a worker was there all the time that could have served it; one is there that can go on with it. */
  couldBeServed = false;
  couldBeResumed = false;
  /** Of its gateway's connection, while the request ran. */
  longestOutageMs = 0;
  beganMs = 0;
  endedMs = 0;
  private readonly cluster: ClusterView;
  private generation: Generation | null = null;
  private routing: RequestRouting | null = null;
  private gateway: SimGateway | null = null;

  constructor(request: SimRequest, cluster: ClusterView) {
    this.request = request;
    this.cluster = cluster;
  }

  get wasAccepted(): boolean {
    return this.generation?.wasAccepted ?? false;
  }

  get resumes(): number {
    return this.generation?.resumes ?? 0;
  }

  get cacheHitTokens(): number {
    return this.generation?.cacheHitTokens ?? 0;
  }

  /** It got all that it asked for. */
  get isWhole(): boolean {
    return this.outcome === "stop" || this.outcome === "length";
  }

  start(gateway: SimGateway): void {
    if (!gateway.node.alive) {
      this.end("gateway is down");
      this.forgiven = true;
      return;
    }
    this.gateway = gateway;
    this.beganMs = gateway.node.world.nowMs;
    gateway.node.deliver(() => {
      this.outcome = "running";
      const { generation, routing } = gateway.start(this.request);
      this.generation = generation;
      this.routing = routing;
      const { leavesAfter } = this.request;
      if (leavesAfter !== null && "ms" in leavesAfter) gateway.node.setTimer(leavesAfter.ms, () => this.leave());
      void this.read(generation);
    });
  }

  gatewayDied(): void {
    if (this.isOver || this.gateway?.node.alive !== false) return;
    this.forgiven = true;
    this.end("gateway died");
  }

  clockJumped(gatewayId: string): void {
    if (this.gateway?.node.id === gatewayId) this.clockHasJumped = true;
  }

  private async read(generation: Generation): Promise<void> {
    const { leavesAfter } = this.request;
    try {
      for await (const batch of generation) {
        if (this.tokens.length === 0 && generation.promptScores !== null) this.scores = scoresOf(generation.promptScores);
        this.tokens.push(...batch.tokens);
        this.digests.push(...batch.digests);
        this.logprobs.push(...batch.logprobs.map(({ logprob }) => logprob));
        if (leavesAfter !== null && "tokens" in leavesAfter && this.tokens.length >= leavesAfter.tokens) {
          this.leave();
          return;
        }
      }
      this.end(generation.end?.reason ?? "no reason");
    } catch (error) {
      if (this.isOver) return;
      this.message = error instanceof Error ? error.message : String(error);
      this.end(error instanceof PelagicError ? error.code : "an error without a name");
    }
  }

  private leave(): void {
    if (this.isOver) return;
    this.generation?.cancel();
    this.end("left");
  }

  private end(outcome: string): void {
    this.isOver = true;
    this.outcome = outcome;
    if (this.gateway === null) return;
    this.endedMs = this.gateway.node.world.nowMs;
    this.longestOutageMs = this.gateway.bus.longestOutageMs;
    this.couldBeServed = this.cluster.couldServe(this.beganMs, this.gateway.node);
    const numericsId = this.routing?.chosen?.identity.split(".")[1];
    this.couldBeResumed = numericsId !== undefined && this.cluster.couldResume(numericsId, this.gateway.node);
  }
}

export function scoresOf(scores: PromptScores): string[] {
  return Array.from({ length: scores.next - 1 }, (_, i) => JSON.stringify(scores.at(i + 1)));
}
