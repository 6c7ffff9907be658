// A connection's requests one after another, as their answers go: HTTP/1.1 lets a client send the next one before it has its answer. Begun at once
// it would spend prefill on an answer that cannot be written yet, and where the client leaves nothing would ever tell it so: Node closes only the
// response that has the connection.
import type { RequestListener, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** More is no client that waits for answers, and each has its headers here. */
const maxAhead = 64;

export function inTurn(listener: RequestListener): RequestListener {
  const lines = new WeakMap<Socket, { last: ServerResponse; waiting: number }>();
  return (request, response) => {
    const { socket } = request;
    const line = lines.get(socket) ?? { last: response, waiting: 0 };
    const before = line.last;
    line.last = response;
    lines.set(socket, line);
    if (before === response || before.closed) {
      listener(request, response);
      return;
    }
    if (++line.waiting > maxAhead) {
      socket.destroy();
      return;
    }
    before.once("close", () => {
      line.waiting--;
      // It has none where the connection ended with the answer before, or in its midst.
      if (response.socket !== null) listener(request, response);
    });
  };
}
