// Connections that are slow, many, in a hurry, or gone.
import { answered, type Attack, checkingMs, post, posted, request, type Target } from "./attack.ts";
import { exchange, openSocket } from "./sockets.ts";

const health = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
const pauseMs = 100;

function stream({ model }: Target, more: object = {}): string {
  return posted("/v1/completions", { model, prompt: "a", stream: true, ignore_eos: true, temperature: 0, max_tokens: 64, ...more });
}

function* slowly(text: string): Generator<string | number> {
  for (const character of text) {
    yield character;
    yield pauseMs;
  }
}

/** Ends by the server's hand within a time that it was given. */
function cutOff(name: string, boundMs: (target: Target) => number, writes: (target: Target) => Iterable<string | number>): Attack {
  return {
    name,
    async run(target) {
      const bound = boundMs(target) + checkingMs + 2_000;
      const outcome = await exchange({ port: target.port, writes: writes(target), boundMs: bound });
      if (!outcome.closed) return `still open after ${outcome.seconds} s`;
      const status = outcome.statuses[0];
      return status === undefined || status === 408 ? null : `${status}, not 408: ${outcome.text.slice(0, 200)}`;
    },
  };
}

export const connectionAttacks: Attack[] = [
  cutOff(
    "headers, a byte at a time",
    (target) => target.headersMs,
    () => slowly(`GET /health HTTP/1.1\r\nx: ${"y".repeat(10_000)}`),
  ),
  cutOff(
    "headers that stop",
    (target) => target.headersMs,
    () => ["POST /v1/completions HTTP/1.1\r\nhost: x\r\n"],
  ),
  cutOff(
    "a body, a byte at a time",
    (target) => target.requestMs,
    function* () {
      yield "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10000\r\n\r\n";
      yield* slowly(" ".repeat(10_000));
    },
  ),
  cutOff(
    "a body that never comes",
    (target) => target.requestMs,
    () => ["POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n"],
  ),
  cutOff(
    "chunks that stop",
    (target) => target.requestMs,
    () => ["POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n"],
  ),
  {
    name: "300 connections that say nothing",
    async run(target) {
      const all = await Promise.all(
        Array.from({ length: 300 }, () => exchange({ port: target.port, writes: [], boundMs: target.headersMs + checkingMs + 5_000 })),
      );
      const open = all.filter(({ closed }) => !closed).length;
      return open === 0 ? null : `${open} still open`;
    },
  },
  {
    name: "20 requests in one write",
    async run({ port }) {
      const { statuses } = await exchange({ port, writes: [health.repeat(20)], boundMs: 20_000, answers: 20 });
      return statuses.length === 20 && statuses.every((status) => status === 200) ? null : `answers: ${statuses.join(" ")}`;
    },
  },
  {
    name: "3,000 requests before the first answer is read",
    async run({ port }) {
      const { statuses } = await exchange({
        port,
        writes: [...Array(30).fill(health.repeat(100)), 1_000],
        boundMs: 60_000,
        answers: 3_000,
        readLate: true,
      });
      return statuses.length === 3_000 && statuses.every((status) => status === 200) ? null : `${statuses.length} answers`;
    },
  },
  {
    name: "streams one behind the other on one connection",
    async run(target) {
      const { statuses, text } = await exchange({ port: target.port, writes: [stream(target).repeat(3)], boundMs: 60_000, answers: 3 });
      const ends = text.split("data: [DONE]").length - 1;
      return statuses.join(" ") === "200 200 200" && ends === 3 ? null : `answers ${statuses.join(" ")}, ${ends} ends`;
    },
  },
  {
    name: "a second request in the bytes behind a body",
    async run({ port, model }) {
      const body = JSON.stringify({ model, prompt: "a", max_tokens: 2 });
      const head = `POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
      const hidden = "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
      const { statuses } = await exchange({ port, writes: [head + body + hidden], boundMs: 20_000 });
      return statuses.join(" ") === "200 404" ? null : `answers: ${statuses.join(" ")}`;
    },
  },
  {
    name: "nonsense behind a request",
    async run({ port }) {
      const { statuses, closed } = await exchange({ port, writes: [`${health}\u0001nonsense\r\n\r\n`], boundMs: 20_000 });
      return statuses.join(" ") === "200 400" && closed ? null : `answers: ${statuses.join(" ")}, closed: ${closed}`;
    },
  },
  // Who says so may as well be gone.
  answered(
    "a client that says it is done, and still reads",
    [200, "none"],
    (target) => [post(JSON.stringify({ model: target.model, prompt: "a", max_tokens: 8 }))],
    { halfClose: true },
  ),
  answered("a client that expects 100 Continue", [200], ({ model }) => {
    const body = JSON.stringify({ model, prompt: "a", max_tokens: 2 });
    return [
      request("POST /v1/completions HTTP/1.1", [
        "content-type: application/json",
        "expect: 100-continue",
        `content-length: ${body.length}`,
      ]),
      200,
      body,
    ];
  }),
  {
    name: "20 clients that are gone with further requests behind their stream",
    async run(target) {
      await Promise.all(
        Array.from({ length: 20 }, async () => {
          const socket = openSocket(target.port, stream(target, { max_tokens: 2_000 }).repeat(3));
          await new Promise((resolve) => socket.once("data", resolve).once("close", resolve));
          socket.destroy();
        }),
      );
      return null;
    },
  },
  {
    name: "50 clients that are gone as soon as their stream begins",
    async run(target) {
      await Promise.all(
        Array.from({ length: 50 }, async (_, i) => {
          const socket = openSocket(target.port, stream(target, { max_tokens: 2_000 }));
          if (i % 2 === 0) await new Promise((resolve) => socket.once("data", resolve).once("close", resolve));
          if (i % 3 === 0) socket.resetAndDestroy();
          else socket.destroy();
        }),
      );
      return null;
    },
  },
];
