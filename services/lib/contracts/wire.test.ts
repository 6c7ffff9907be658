import { describe, expect, test } from "vitest";
import { Dispatch, RowsRequest } from "./messages.ts";
import { decodeMessage, encodeMessage } from "./wire.ts";

/** max_position_embeddings and vocab_size of DeepSeek-V3, and max_payload of a NATS server as it comes. */
const positions = 163_840;
const vocabulary = 129_280;
const maxPayloadBytes = 1024 * 1024;

const tokens = Uint32Array.from({ length: positions }, (_, i) => (i * 7919) % vocabulary);
const id = "x".repeat(64);
const digest = "ab".repeat(32);

describe("the longest prompt of DeepSeek-V3 goes in one message", () => {
  test("to decode, with as many logit biases as the API allows", () => {
    const body: Omit<Dispatch, "v"> = {
      requestId: id,
      attemptId: id,
      gatewayId: id,
      instanceId: id,
      replySubject: id.repeat(4),
      promptLength: positions,
      maxTokens: 1,
      stopTokenIds: Array.from({ length: 16 }, (_, i) => vocabulary - 1 - i),
      sampling: {
        temperature: 1,
        seed: "18446744073709551615",
        choice: 0,
        logitBias: Array.from({ length: 1024 }, (_, i) => [vocabulary - 1 - i, -99.87654321]),
      },
      cacheSalt: digest,
      prefillWorkerId: id,
      heldBy: id,
      leaseMs: 10_000,
      deadlineMs: 600_000,
    };
    const message = encodeMessage(body, tokens);
    expect(message.length).toBeLessThanOrEqual(maxPayloadBytes);
    const arrived = decodeMessage(Dispatch, message);
    expect(arrived.body).toEqual({ v: arrived.body.v, ...body });
    expect(arrived.tokens).toEqual(tokens);
  });

  test("to whoever prefills it", () => {
    const body: Omit<RowsRequest, "v"> = {
      requestId: id,
      transferId: "00".repeat(16),
      decodeWorkerId: id,
      modelDigest: digest,
      numericsId: digest,
      kvDtype: "bfloat16",
      cacheSalt: digest,
      firstRow: 0,
      endRow: positions,
      promptLength: positions,
      deadlineMs: 600_000,
      grantedBytes: 16 * maxPayloadBytes,
    };
    const message = encodeMessage(body, tokens);
    expect(message.length).toBeLessThanOrEqual(maxPayloadBytes);
    const arrived = decodeMessage(RowsRequest, message);
    expect(arrived.body).toEqual({ v: arrived.body.v, ...body });
    expect(arrived.tokens).toEqual(tokens);
  });
});
