// Watches the frames of all transfers beside what was granted for them: nobody may send what the receiver has no room for.
import { readFramePlaces } from "../contracts/frame.ts";
import { peek } from "./protocol-points.ts";

interface Flow {
  grantedBytes: number;
  sentBytes: number;
  nextFrame: number;
}

export class FlowWatch {
  private readonly flows = new Map<string, Flow>();

  /** To be called with each message as it is published; says what is wrong with it. */
  observe(subject: string, data: Uint8Array): string | null {
    const [, , kind, , transferId = ""] = subject.split(".");
    if (kind === "rows" || kind === "credit") this.granted(data);
    return kind === "kv" ? this.sent(transferId, data) : null;
  }

  private granted(data: Uint8Array): void {
    const { transferId, grantedBytes } = (peek(data)?.json ?? {}) as { transferId?: string; grantedBytes?: number };
    if (transferId === undefined || grantedBytes === undefined) return;
    const flow = this.flows.get(transferId) ?? { grantedBytes: 0, sentBytes: 0, nextFrame: 0 };
    flow.grantedBytes = Math.max(flow.grantedBytes, grantedBytes);
    this.flows.set(transferId, flow);
  }

  private sent(transferId: string, message: Uint8Array): string | null {
    const flow = this.flows.get(transferId);
    const frames = readFramePlaces(message);
    if (flow === undefined || frames === null) return `a frame of a transfer that nobody asked for: ${transferId}`;
    for (const { sequence, payloadBytes } of frames) {
      // A frame that is sent again keeps its position.
      if (sequence < flow.nextFrame) continue;
      flow.nextFrame = sequence + 1;
      flow.sentBytes += payloadBytes;
    }
    return flow.sentBytes > flow.grantedBytes ? `${flow.sentBytes} bytes sent of ${flow.grantedBytes} granted` : null;
  }
}
