import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { expect, it } from "vitest";
import { waitFor } from "../../tests/gateway/gateway-under-test.ts";
import { inTurn } from "./in-turn.ts";

it("keeps few requests ahead of their turn, begins none of them early, and answers all of them in order", async () => {
  const count = 20_000;
  let [arrived, begun] = [0, 0];
  let first: ServerResponse | undefined;
  const server = createServer(
    inTurn((request, response) => {
      begun++;
      if (request.url === "/0") first = response;
      else response.end(`${request.url}\n`);
    }),
  );
  server.on("request", () => arrived++);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = connect({ host: "127.0.0.1", port: (server.address() as AddressInfo).port });
  let text = "";
  socket.setEncoding("utf8").on("data", (chunk) => {
    text += chunk;
  });
  const requests = Array.from(
    { length: count },
    (_, i) => `GET /${i} HTTP/1.1\r\nhost: x\r\n${i + 1 === count ? "connection: close\r\n" : ""}\r\n`,
  );
  socket.write(requests.join(""));
  await waitFor(() => first !== undefined);
  for (let before = 0; before !== arrived; ) {
    before = arrived;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  expect([begun, arrived < count / 2]).toEqual([1, true]);
  first?.end("/0\n");
  await new Promise((resolve) => socket.once("close", resolve));
  expect(Array.from(text.matchAll(/^\/(\d+)$/gm), ([, at]) => Number(at))).toEqual(requests.map((_, i) => i));
  await new Promise((resolve) => server.close(resolve));
});
