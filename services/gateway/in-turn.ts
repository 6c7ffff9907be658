// A connection's requests one after another, as their answers go: HTTP/1.1 lets a client send the next one before it has its answer. Begun at once
// it would spend prefill on an answer that cannot be written yet, and where the client leaves nothing would ever tell it so: Node closes only the
// response that has the connection.
import type { RequestListener, ServerResponse } from "node:http";
import type { Socket } from "node:net";

/** With more ahead of their turn nothing more is read: then there are these and what was read with the last of them. */
const maxAhead = 64;

interface Line {
  last: ServerResponse;
  waiting: number;
}

export function inTurn(listener: RequestListener): RequestListener {
  const lines = new WeakMap<Socket, Line>();
  return (request, response) => {
    const { socket } = request;
    const line = lines.get(socket);
    if (line === undefined || line.last.closed) {
      lines.set(socket, { last: response, waiting: 0 });
      listener(request, response);
      return;
    }
    const before = line.last;
    line.last = response;
    if (++line.waiting === maxAhead + 1) hold(socket, line);
    before.once("close", () => {
      if (--line.waiting === maxAhead) socket.resume();
      // It has none where the connection ended with the answer before, or in its midst.
      if (response.socket !== null) listener(request, response);
    });
  };
}

/** Whatever else would have the connection read on, a body or an answer that went out: not before the line is shorter. */
function hold(socket: Socket, line: Line): void {
  socket.pause();
  socket.on("resume", function onResume() {
    if (line.waiting > maxAhead) socket.pause();
    else socket.off("resume", onResume);
  });
}
