// Sends events about ModelServices: beside the work, never in its way. What cannot be sent soon is dropped and counted.
import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { Log } from "../../services/lib/contracts/bus.ts";
import { apiVersion, kind } from "../api/model-service.ts";
import type { PlannedEvent } from "../planner/events.ts";
import { fieldManager } from "../planner/names.ts";
import type { ApiClient, ApiError } from "./api-client.ts";
import { type EventAction, EventLog, eventLogBounds } from "./event-log.ts";
import { collectionPath, objectPath } from "./resources.ts";

interface Subject {
  name: string;
  namespace: string;
  uid: string;
}

interface Waiting {
  subject: Subject;
  event: PlannedEvent;
  action: Exclude<EventAction, { do: "drop" }>;
  /** Microseconds, as the API wants them. */
  time: string;
}

const eventApi = { apiVersion: "events.k8s.io/v1", kind: "Event" };
const maxWaiting = 500;
const tries = 3;
const retryMs = 1_000;
/** The API server's bound. */
const maxNoteBytes = 1024;

export class EventSender {
  private readonly log = new EventLog(eventLogBounds, (name) => `${name}.${Date.now().toString(16)}${randomBytes(4).toString("hex")}`);
  private readonly waiting: Waiting[] = [];
  private sending: Promise<void> | undefined;
  private readonly stopper = new AbortController();

  constructor(
    private readonly client: ApiClient,
    private readonly identity: string,
    private readonly leads: () => boolean,
    private readonly processLog: Log,
    private readonly dropped: () => void,
  ) {}

  tell(subject: Subject, event: PlannedEvent): void {
    const action = this.log.decide(subject, event, performance.now());
    if (action.do === "drop") return;
    if (this.waiting.length >= maxWaiting) {
      this.dropped();
      return;
    }
    this.waiting.push({ subject, event, action, time: new Date().toISOString().replace("Z", "000Z") });
    this.sending ??= this.sendAll().finally(() => {
      this.sending = undefined;
    });
  }

  /** Waits for what is under way, within `boundMs`. */
  async stop(boundMs: number): Promise<void> {
    const timer = setTimeout(() => this.stopper.abort(), boundMs);
    await this.sending;
    clearTimeout(timer);
  }

  private async sendAll(): Promise<void> {
    for (let next = this.waiting.shift(); next !== undefined; next = this.waiting.shift()) {
      if (this.stopper.signal.aborted || !this.leads()) this.dropped();
      else await this.send(next);
    }
  }

  private async send(waiting: Waiting): Promise<void> {
    const { signal } = this.stopper;
    for (let attempt = 1; ; attempt++) {
      try {
        await this.sendOnce(waiting, signal);
        return;
      } catch (error) {
        const { status, retryAfterMs, message } = error as ApiError;
        const hopeless = status >= 400 && status < 500 && status !== 429;
        if (hopeless || attempt === tries || signal.aborted) {
          this.processLog.warn({ reason: waiting.event.reason, status, error: message }, "an event was not sent");
          this.dropped();
          return;
        }
        await sleep(retryAfterMs ?? retryMs * attempt, undefined, { signal }).catch(() => undefined);
      }
    }
  }

  private async sendOnce({ subject, event, action, time }: Waiting, signal: AbortSignal): Promise<void> {
    const { namespace, name, uid } = subject;
    if (action.do === "create") {
      const body = {
        ...eventApi,
        metadata: { namespace, name: action.name },
        eventTime: time,
        reportingController: fieldManager,
        reportingInstance: this.identity,
        action: "Reconcile",
        reason: event.reason,
        type: event.type,
        note: noteOf(event.message),
        regarding: { apiVersion, kind, namespace, name, uid },
      };
      await this.client.call("POST", collectionPath(eventApi, namespace), { resource: "events", body, signal });
      return;
    }
    const body = { series: { count: action.count, lastObservedTime: time } };
    const path = objectPath({ ...eventApi, namespace, name: action.name });
    await this.client.call("PATCH", path, { resource: "events", body, contentType: "application/merge-patch+json", signal });
  }
}

export function noteOf(message: string): string {
  const { read } = new TextEncoder().encodeInto(message, new Uint8Array(maxNoteBytes));
  return message.slice(0, read);
}
