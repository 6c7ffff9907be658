// Request lines and headers that are hardly HTTP.
import { answered, type Attack, request } from "./attack.ts";

const health = "GET /health HTTP/1.1";
const ok = '{"model":"x","prompt":"a"}';
const lengthOf = (value: string) => () => [
  request("POST /v1/completions HTTP/1.1", ["content-type: application/json", `content-length: ${value}`], ok),
];
const coded =
  (...headers: string[]) =>
  () => [request("POST /v1/completions HTTP/1.1", ["content-type: application/json", ...headers], `5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n`)];

export const headAttacks: Attack[] = [
  answered("an ordinary request", [200], () => [request(health)]),
  answered("a header of 40 kB", [431], () => [request(health, [`x: ${"y".repeat(40_000)}`])]),
  answered("a header's name of 40 kB", [431], () => [request(health, [`${"y".repeat(40_000)}: x`])]),
  // Names and values alone count towards the bound; what is too many is left out.
  answered("8,000 headers", [200, 431], () => [request(health, Array(8_000).fill("a: b"))]),
  answered("2,500 headers of the least size", [200, 400, 431], () => [request(health, Array(2_500).fill("a:b"))]),
  answered("a path of 40 kB", [414, 431], () => [request(`GET /${"a".repeat(40_000)} HTTP/1.1`)]),
  answered("a path of 20 kB", [404], () => [request(`GET /${"a".repeat(20_000)} HTTP/1.1`)]),
  answered("a query of 20 kB", [200], () => [request(`GET /health?${"a=b&".repeat(5_000)} HTTP/1.1`)]),
  ...["%zz", "%00", "%ff", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", "%u0000", "__proto__", "constructor"].flatMap((path) =>
    [`/v1/models/${path}`, `/${path}`].map((whole) => answered(`GET ${whole}`, [400, 404], () => [request(`GET ${whole} HTTP/1.1`)])),
  ),
  answered("another scheme in the path", [200, 400, 404], () => [request("GET http://other:1/health HTTP/1.1")]),
  answered("slashes in the path", [200, 404], () => [request("GET ////health HTTP/1.1")]),
  answered("no host", [400], () => ["GET /health HTTP/1.1\r\nconnection: close\r\n\r\n"]),
  answered("two hosts", [200, 400], () => [request(health, ["host: y"])]),
  answered("a header without a colon", [400], () => [request(health, ["nothing"])]),
  answered("a space before the colon", [400], () => [request(health, ["x : y"])]),
  answered("a NUL in a header", [400], () => [request(health, ["x: a\u0000b"])]),
  answered("a header folded over lines", [200, 400], () => [request(health, ["x: a", " b"])]),
  answered("line feeds alone", [200, 400], () => ["GET /health HTTP/1.1\nhost: x\nconnection: close\n\n"]),
  answered("a carriage return alone", [400], () => ["GET /health HTTP/1.1\rhost: x\r\r"], { halfClose: true }),
  answered("bytes beyond ASCII in a header", [200, 400], () => [Buffer.from(request(health, ["x: \xff\xfe"]), "latin1")]),
  ...["-1", "abc", "1e3", "0x10", "+5", "5, 6", "99999999999999999999", "1_0", "", " "].map((value) =>
    answered(`content-length: ${value}`, [400, 413], lengthOf(value), { halfClose: true }),
  ),
  answered("content-length twice, of two minds", [400], () => [
    request("POST /v1/completions HTTP/1.1", ["content-length: 5", "content-length: 6"], ok),
  ]),
  answered("content-length beside chunked", [400], coded("content-length: 7", "transfer-encoding: chunked")),
  ...["xchunked", "chunked, identity", "identity", "gzip, chunked", "\u000bchunked", "chunked;q=1", '"chunked"', ""].map((value) =>
    answered(`transfer-encoding: ${JSON.stringify(value)}`, [400, 413, 501, "none"], coded(`transfer-encoding: ${value}`), {
      halfClose: true,
    }),
  ),
  answered("transfer-encoding with a space before its colon", [400], coded("transfer-encoding : chunked"), { halfClose: true }),
  answered("transfer-encoding twice", [400, 404], coded("transfer-encoding: chunked", "transfer-encoding: chunked"), { halfClose: true }),
  ...["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1.1", "XTTP/1.1", "HTTP"].map((version) =>
    answered(`version ${version}`, [200, 400, 505], () => [`GET /health ${version}\r\nhost: x\r\n\r\n`], { halfClose: true }),
  ),
  answered("HTTP/1.0", [200], () => ["GET /health HTTP/1.0\r\n\r\n"]),
  answered("a request of HTTP/0.9", [200, 400], () => ["GET /health\r\n\r\n"], { halfClose: true }),
  answered("HTTP/2 with prior knowledge", [400, 505], () => ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Buffer.alloc(9)], { halfClose: true }),
  answered("a TLS client", [400], () => [Buffer.from("16030100c8010000c40303", "hex"), Buffer.alloc(200, 7)], { halfClose: true }),
  answered("random bytes", [400], () => [Buffer.from(Array.from({ length: 5_000 }, (_, i) => (i * 7919 + 31) % 256))], { halfClose: true }),
  answered("zeros", [400], () => [Buffer.alloc(10_000)], { halfClose: true }),
  answered("nothing", ["none"], () => [], { halfClose: true }),
  ...["get", "GARBAGE", "TRACE", "OPTIONS", "PUT", "DELETE", "PATCH", "PROPFIND", "M-SEARCH"].map((method) =>
    answered(`method ${method}`, [400, 404, 405, 501], () => [request(`${method} /v1/completions HTTP/1.1`)], { halfClose: true }),
  ),
  answered("HEAD /health", [200], () => [request("HEAD /health HTTP/1.1")]),
  answered("HEAD /nowhere", [404], () => [request("HEAD /nowhere HTTP/1.1")]),
  answered("OPTIONS *", [400, 404, 405], () => [request("OPTIONS * HTTP/1.1")]),
  answered("CONNECT", [400, 405], () => [request("CONNECT other:443 HTTP/1.1")], { halfClose: true }),
  answered("an upgrade to WebSocket", [200, 400, 426], () => [
    "GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n",
  ]),
  answered("an upgrade to HTTP/2", [200], () => [
    request(health, ["upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"]).replace(
      "connection: close",
      "connection: upgrade, http2-settings",
    ),
  ]),
  answered("an expectation that nobody has", [400, 417], () => [
    request("POST /v1/completions HTTP/1.1", ["expect: 200-maybe", "content-length: 2"], "{}"),
  ]),
  answered("a request id that is none", [200], () => [request(health, [`x-request-id: ${"a".repeat(5_000)}`])]),
];
