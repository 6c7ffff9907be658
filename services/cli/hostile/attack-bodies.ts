// Bodies that are no JSON, hardly JSON, or too much of it.
import { gzipSync } from "node:zlib";
import { answered, type Attack, post, request, type Target } from "./attack.ts";
import { hostilePatterns, hostileSchemas, hostileSchemaTexts, hostileStops } from "./patterns.ts";

const json = ["content-type: application/json"];
const mebibyte = 1024 * 1024;

/** `more`: JSON text of further members. */
function completion({ model }: Target, more = ""): string {
  return `{"model":${JSON.stringify(model)},"prompt":"a","max_tokens":2${more}}`;
}
const withMembers = (name: string, statuses: number[], more: string) =>
  answered(name, statuses, (target) => [post(completion(target, more))]);
const chunked = (name: string, statuses: (number | "none")[], writes: () => Iterable<string | Uint8Array>) =>
  answered(
    name,
    statuses,
    function* () {
      yield request("POST /v1/completions HTTP/1.1", [...json, "transfer-encoding: chunked"]);
      yield* writes();
    },
    { halfClose: true },
  );

export function bodyAttacks(): Attack[] {
  return [
    ...framing,
    ...contentTypes,
    ...encodings,
    ...depths,
    ...numbersAndKeys,
    ...sizes,
    ...hostilePatterns.map((pattern, i) => asked(`structured_outputs.regex ${i}`, { structured_outputs: { regex: pattern } })),
    ...hostileStops.map((stop, i) => asked(`stop ${i}`, { stop, prompt: "a".repeat(300), max_tokens: 20 })),
    ...hostileSchemas.map((schema, i) => asked(`json_schema ${i}`, { response_format: { type: "json_schema", json_schema: { schema } } })),
    ...hostileSchemaTexts.map((text, i) => asked(`structured_outputs.json ${i}`, { structured_outputs: { json: text } })),
    ...hostileSchemas.slice(0, 40).map((parameters, i) => asTool(i, parameters)),
  ];
}

function asked(name: string, fields: object): Attack {
  return answered(name, [200, 400], ({ model }) => [
    post(JSON.stringify({ model, prompt: "a", max_tokens: 4, temperature: 0, ...fields })),
  ]);
}

function asTool(index: number, parameters: unknown): Attack {
  return answered(`tool parameters ${index}`, [200, 400], ({ model }) => {
    const tool = { type: "function", function: { name: "f", parameters } };
    const body = { model, messages: [{ role: "user", content: "a" }], tools: [tool], tool_choice: "required", max_tokens: 4 };
    return [post(JSON.stringify(body), json, "/v1/chat/completions")];
  });
}

const framing: Attack[] = [
  answered("a body that is announced as 1 TB", [413], () => [
    request("POST /v1/completions HTTP/1.1", [...json, "content-length: 1099511627776"], "{"),
  ]),
  answered("17 MB with a length", [413], () => [
    request("POST /v1/completions HTTP/1.1", [...json, `content-length: ${17 * mebibyte}`]),
    Buffer.alloc(17 * mebibyte, 32),
  ]),
  chunked("40 MB in chunks, without an end", [413, "none"], function* () {
    for (let i = 0; i < 40; i++) yield Buffer.concat([Buffer.from("100000\r\n"), Buffer.alloc(mebibyte, 32), Buffer.from("\r\n")]);
  }),
  chunked("100,000 chunks of a byte", [400], function* () {
    for (let i = 0; i < 100; i++) yield "1\r\n \r\n".repeat(1_000);
    yield "0\r\n\r\n";
  }),
  ...["zz", "-1", "fffffffffffffffff", "7fffffffffffffff", "0x5", " 5", "5 5", "", "1;".padEnd(100_000, "e")].map((size) =>
    chunked(`a chunk of size ${JSON.stringify(size.slice(0, 20))}`, [400, 413, 431, "none"], () => [`${size}\r\n{"a":\r\n0\r\n\r\n`]),
  ),
  chunked("a chunk longer than it says", [400], () => [`2\r\n{"a":1}\r\n0\r\n\r\n`]),
  chunked("trailers of 100 kB", [400, 431, "none"], () => [`2\r\n{}\r\n0\r\n${`a: ${"b".repeat(90)}\r\n`.repeat(1_000)}\r\n`]),
  chunked("a trailer that would be a length", [400], () => [`2\r\n{}\r\n0\r\ncontent-length: 100\r\n\r\n`]),
  answered("a body where none belongs", [200], () => [request("GET /health HTTP/1.1", ["content-length: 5"], "hello")]),
];

const contentTypes: Attack[] = [
  ...[
    "",
    "content-type: text/plain",
    "content-type: multipart/form-data; boundary=x",
    "content-type: application/x-www-form-urlencoded",
    "content-type: application/jsonx",
    `content-type: application/json${"+a".repeat(8_000)}x`,
    "content-type: *",
    "content-type: application/octet-stream",
  ].map((header) =>
    answered(`${header.slice(0, 60) || "no content-type"}`, [400], (target) => [post(completion(target), header === "" ? [] : [header])]),
  ),
  ...["application/json; charset=utf-8", "application/json;charset=utf-16", "APPLICATION/JSON", "application/problem+json"].map((type) =>
    answered(`content-type: ${type}`, [200, 400], (target) => [post(completion(target), [`content-type: ${type}`])]),
  ),
  answered("content-encoding: gzip", [400], (target) => [post(gzipSync(completion(target)), [...json, "content-encoding: gzip"])]),
  answered("a bomb of gzip", [400], () => [post(gzipSync(Buffer.alloc(50 * mebibyte)), [...json, "content-encoding: gzip"])]),
  answered("content-encoding: identity", [200], (target) => [post(completion(target), [...json, "content-encoding: identity"])]),
];

const encodings: Attack[] = [
  answered("a byte order mark", [200, 400], (target) => [post(`\ufeff${completion(target)}`)]),
  answered("UTF-16", [400], (target) => [post(Buffer.from(`\ufeff${completion(target)}`, "utf16le"))]),
  answered("Latin-1", [400], ({ model }) => [post(Buffer.from(`{"model":"${model}","prompt":"caf\xe9","max_tokens":2}`, "latin1"))]),
  ...["c080", "eda080", "f4908080", "ff", "e282", "80"].map((hex) =>
    answered(`bytes ${hex} in a string`, [400], ({ model }) => [
      post(Buffer.concat([Buffer.from(`{"model":"${model}","max_tokens":2,"prompt":"`), Buffer.from(hex, "hex"), Buffer.from('"}')])),
    ]),
  ),
  ...["\\ud800", "\\udc00", "\\udc00\\ud800", "\\u0000", "\\uffff", "\\ufeff"].map((written) =>
    answered(`${written} in a prompt`, [200, 400], ({ model }) => [post(`{"model":"${model}","prompt":"${written}","max_tokens":2}`)]),
  ),
  ...["prompt", "stop", "user_id", "cache_salt", "model"].map((field) =>
    withMembers(`half a surrogate pair as ${field}`, [200, 400, 404], `,"${field}":"\\ud83d"`),
  ),
  withMembers("half a surrogate pair as a name", [200, 400], `,"\\ud83d":1`),
];

const depths: Attack[] = [10_000, 100_000, 1_000_000].flatMap((depth) => [
  answered(`${depth} brackets`, [400], () => [post("[".repeat(depth))]),
  withMembers(`${depth} arrays in a field that nobody knows`, [400], `,"x":${"[".repeat(depth)}${"]".repeat(depth)}`),
  withMembers(`${depth} objects in one that is known`, [400], `,"logit_bias":${'{"1":'.repeat(depth)}1${"}".repeat(depth)}`),
]);

const numbersAndKeys: Attack[] = [
  ...["temperature", "max_tokens", "seed", "top_p", "logprobs", "n"].flatMap((field) => [
    withMembers(`${field}: 1e999`, [400], `,"${field}":1e999`),
    withMembers(`${field}: of 100,000 digits`, [400], `,"${field}":${"9".repeat(100_000)}`),
    withMembers(`${field}: -0`, [200, 400], `,"${field}":-0`),
    withMembers(`${field}: 2^53 + 1`, [200, 400], `,"${field}":9007199254740993`),
  ]),
  withMembers("a number that nobody knows, of 1,000,000 digits", [200], `,"x":${"9".repeat(1_000_000)}`),
  withMembers("a field twice", [200, 400], ',"max_tokens":3'),
  withMembers("a field twice, the second wrong", [400], ',"max_tokens":"x"'),
  withMembers("100,000 times one field", [200, 400], ',"max_tokens":2'.repeat(100_000)),
  ...["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "then"].flatMap((key) => [
    withMembers(`${key} as a field`, [200, 400], `,"${key}":{"temperature":"x","isAdmin":true}`),
    // Of __proto__ nothing is left in a record.
    withMembers(`${key} as a logit bias`, key === "__proto__" ? [200, 400] : [400], `,"logit_bias":{"${key}":1}`),
    withMembers(
      `${key} in a schema`,
      [200, 400],
      `,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"object","properties":{"${key}":{"type":"null"}},"required":["${key}"]}}}`,
    ),
  ]),
];

const sizes: Attack[] = [
  withMembers("a list of 1,000,000 stops", [400], `,"stop":[${Array(1_000_000).fill('"a"').join(",")}]`),
  withMembers("100,000 logit biases", [400], `,"logit_bias":{${Array.from({ length: 100_000 }, (_, i) => `"${i}":1`).join(",")}}`),
  withMembers("100,000 fields that nobody knows", [200, 400], Array.from({ length: 100_000 }, (_, i) => `,"f${i}":1`).join("")),
  answered("a prompt of 15 MB", [400], ({ model }) => [
    post(`{"model":"${model}","prompt":"${"a".repeat(15 * mebibyte)}","max_tokens":2}`),
  ]),
  answered("a prompt of 15 MB, all escapes", [400], ({ model }) => [
    post(`{"model":"${model}","prompt":"${"\\u0061".repeat(2.5 * mebibyte)}","max_tokens":2}`),
  ]),
  answered("15 MB of white space", [400], () => [post(" ".repeat(15 * mebibyte))]),
  answered("a prompt of 3,000,000 ids", [400], ({ model }) => [
    post(`{"model":"${model}","prompt":[${Array(3_000_000).fill("1").join(",")}],"max_tokens":2}`),
  ]),
  answered("100,000 messages", [400], ({ model }) => [
    post(
      `{"model":"${model}","messages":[${Array(100_000).fill('{"role":"user","content":"a"}').join(",")}]}`,
      json,
      "/v1/chat/completions",
    ),
  ]),
  answered("300,000 parts of content", [400], ({ model }) => [
    post(
      `{"model":"${model}","messages":[{"role":"user","content":[${Array(300_000).fill('{"type":"text","text":"a"}').join(",")}]}]}`,
      json,
      "/v1/chat/completions",
    ),
  ]),
  ...["", " ", "null", "1", '"x"', "[]", "{", "}", "{}{}", "{'a':1}", "{a:1}", "// x\n{}", "undefined", "NaN"].map((body) =>
    answered(`the body ${JSON.stringify(body)}`, [400], () => [post(body)]),
  ),
];
