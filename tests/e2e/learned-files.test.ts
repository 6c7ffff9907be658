// Workers whose small files are damaged, too large, of another kind or not those that they announced: each is refused by name, its worker gets no
// request, and models that are sound are learned beside them. The workers are scripted, on a real server with the product's permissions.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { type Bus, silentLog } from "../../services/lib/contracts/bus.ts";
import { ErrorBody } from "../../services/lib/contracts/http.ts";
import {
  digestOfList,
  type FileEntry,
  FilesRequest,
  maxModelFileBytes,
  type OfferedFiles,
  offeredFiles,
  packPiece,
  type SmallFileName,
} from "../../services/lib/contracts/model-files.ts";
import { subjects as subjectsOf } from "../../services/lib/contracts/subjects.ts";
import { decodeMessage, encodeMessage } from "../../services/lib/contracts/wire.ts";
import { FileServer } from "../../services/lib/engine/file-server.ts";
import { readModelFiles } from "../../services/lib/model/folder.ts";
import { connectBus } from "../../services/lib/runtime/nats-bus.ts";
import { natsUserName } from "../../services/lib/runtime/nats-permissions.ts";
import { say } from "../gateway/gateway-under-test.ts";
import { ScriptedDecode } from "../gateway/scripted-decode.ts";
import { Fleet, type FleetProcess, fleetService } from "./fleet.ts";
import { waitFor } from "./support.ts";

const subjects = subjectsOf(fleetService);
const { files: sound } = readModelFiles(embeddedModel());
let fleet: Fleet;
let gateway: FleetProcess;
let bus: Bus;
const workers: ScriptedDecode[] = [];

beforeAll(async () => {
  fleet = await Fleet.start();
  const user = natsUserName(fleetService, "decode");
  bus = await connectBus({ servers: fleet.nats.url, user, password: "secret", name: "scripted", log: silentLog });
  gateway = await fleet.gateway("gateway-0").ready();
});
afterAll(async () => {
  for (const worker of workers) worker.kill();
  await bus?.close();
  await fleet?.close();
});

/** `respond`: to a request for the list or a piece; null: no answer. */
function startWorker(
  name: string,
  filesDigest: string,
  respond?: (request: FilesRequest) => { body: object; tail?: Uint32Array } | null,
): ScriptedDecode {
  const worker = new ScriptedDecode({ bus, service: fleetService, workerId: `of-${name}`, script: () => say("hello") });
  worker.state = { modelName: name, filesDigest };
  workers.push(worker);
  if (respond !== undefined) {
    bus.subscribe(subjects.files(worker.workerId), (message) => {
      const answer = respond(decodeMessage(FilesRequest, message.data).body);
      if (answer !== null) message.respond?.(encodeMessage(answer.body, answer.tail));
    });
  }
  worker.sayState();
  return worker;
}

const changed = (name: SmallFileName, content: string): OfferedFiles => offeredFiles(new Map([...sound, [name, Buffer.from(content)]]));
const json = (name: SmallFileName) => JSON.parse(readFileSync(join(embeddedModel(), name), "utf8")) as Record<string, unknown>;
const listed = (list: FileEntry[]) => ({ digest: digestOfList(list), answer: { body: { kind: "list", files: list } } });

async function reasonOf(name: string): Promise<string | undefined> {
  const body = (await (await fetch(`${gateway.admin}/status`)).json()) as {
    gateway: { learning: { missing: { name: string; reason: string }[] } };
  };
  return body.gateway.learning.missing.find((one) => one.name === name)?.reason;
}

/** Until the gateway says this of the model; then nobody can ask it, and its worker was asked nothing. */
async function isRefused(worker: ScriptedDecode, why: RegExp): Promise<void> {
  const name = worker.state.modelName as string;
  await waitFor(`${name} is refused: ${why}`, async () => why.test((await reasonOf(name)) ?? ""), 60_000).catch(async (error: Error) => {
    throw new Error(`${error.message}; it says ${await reasonOf(name)}`);
  });
  const response = await ask(name);
  expect([response.status, ErrorBody.parse(await response.json()).error.code]).toEqual([503, "no_workers"]);
  expect(worker.dispatches).toEqual([]);
  worker.kill();
}

const ask = (model: string) =>
  fetch(`${gateway.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "hi" }], thinking: { type: "disabled" } }),
  });

/** The sound files but for what this makes of an answer. */
function lying(
  name: string,
  lie: (request: FilesRequest, answer: { body: Record<string, unknown>; tail?: Uint32Array }) => typeof answer,
): ScriptedDecode {
  const { digest, list, files } = offeredFiles(sound);
  return startWorker(name, digest, (request) => {
    if (request.piece === undefined) return lie(request, { body: { kind: "list", files: list } });
    const { name: file, from } = request.piece;
    const part = (files.get(file) as Uint8Array).subarray(from);
    return lie(request, { body: { kind: "piece", name: file, from, bytes: part.length }, tail: packPiece(part) });
  });
}

test("who gives other files than announced is named, with the file", async () => {
  const damaged = lying("damaged", ({ piece }, answer) => {
    const tail = answer.tail?.slice();
    if (piece?.name === "tokenizer.json" && tail !== undefined) tail[3] = (tail[3] as number) ^ 1;
    return { ...answer, ...(tail && { tail }) };
  });
  await isRefused(damaged, /^of-damaged: tokenizer\.json: damaged/);
  const swapped = lying("swapped", ({ piece }, answer) =>
    piece === undefined ? { body: { kind: "list", files: changed("config.json", "{}").list } } : answer,
  );
  await isRefused(swapped, /^of-swapped: its list of files is not the one whose digest it announced/);
  const short = lying("short", ({ piece }, answer) => (piece === undefined ? answer : { ...answer, tail: new Uint32Array(1) }));
  await isRefused(short, /^of-short: .*\.json: a piece of 4 bytes where/);
  const endless = lying("endless", ({ piece }, answer) =>
    piece === undefined ? answer : { body: { ...answer.body, bytes: 0 }, tail: new Uint32Array(0) },
  );
  await isRefused(endless, /^of-endless: .*: another piece than was asked for/);
  const other = lying("other", ({ piece }, answer) => (piece === undefined ? answer : { ...answer, body: { ...answer.body, from: 1 } }));
  await isRefused(other, /another piece than was asked for/);
  const nonsense = lying("nonsense", (_request, answer) => ({ ...answer, body: { kind: "nonsense" } }));
  await isRefused(nonsense, /^of-nonsense: malformed message/);
  const silent = startWorker("nobody", offeredFiles(sound).digest);
  await isRefused(silent, /^of-nobody: /);
});

test("files that are too large, of other names, twice or in disorder are refused before any is asked for", async () => {
  const entry = (name: string, bytes: number): FileEntry => ({ name: name as SmallFileName, bytes, sha256: "0".repeat(64) });
  const lists: [name: string, list: FileEntry[], why: RegExp][] = [
    ["large", [entry("config.json", maxModelFileBytes + 1)], /files\.0\.bytes/],
    ["sum", [entry("config.json", maxModelFileBytes), entry("tokenizer.json", 1)], /its files take \d+ bytes, at most \d+ may be/],
    ["path", [entry("../../etc/passwd", 10)], /files\.0\.name/],
    ["weights", [entry("model.safetensors", 10)], /files\.0\.name/],
    ["twice", [entry("config.json", 1), entry("config.json", 1)], /not in order/],
    ["disorder", [entry("tokenizer.json", 1), entry("config.json", 1)], /not in order/],
  ];
  for (const [name, list, why] of lists) {
    const { digest, answer } = listed(list);
    let pieces = 0;
    const worker = startWorker(name, digest, ({ piece }) => {
      if (piece !== undefined) pieces++;
      return answer;
    });
    await isRefused(worker, why);
    expect(pieces, name).toBe(0);
  }
});

test("sound bytes that no model can be served by are refused with the file's name", async () => {
  const cases: [name: string, offered: OfferedFiles, why: RegExp][] = [
    ["empty", offeredFiles(new Map()), /no config\.json/],
    ["text", changed("config.json", "no JSON"), /config\.json: /],
    ["deep", changed("tokenizer.json", "[".repeat(2_000_000)), /tokenizer\.json: /],
    ["beyond", changed("config.json", JSON.stringify({ ...json("config.json"), vocab_size: 10 })), /config\.json: .*vocab_size 10/],
    ["warm", changed("generation_config.json", JSON.stringify({ temperature: -1 })), /generation_config\.json: temperature/],
    ["decoder", changed("tokenizer.json", JSON.stringify({ ...json("tokenizer.json"), decoder: null })), /tokenizer\.json: decoder/],
    ["template", changed("chat_template.jinja", "{% for %}"), /./],
  ];
  for (const [name, offered, why] of cases) {
    const worker = new ScriptedDecode({ bus, service: fleetService, workerId: `of-${name}`, script: () => say("hello") });
    workers.push(worker);
    new FileServer(bus, subjects.files(worker.workerId), offered);
    worker.state = { modelName: name, filesDigest: offered.digest };
    worker.sayState();
    await isRefused(worker, why);
  }
});

test("what is lost on the way is asked for again, and a sound model is served beside all of them, by its own worker", async () => {
  let lost = 0;
  const { digest, list, files } = offeredFiles(sound);
  const worker = startWorker("sound", digest, ({ piece }) => {
    if (piece === undefined) return lost++ === 0 ? null : { body: { kind: "list", files: list } };
    const part = (files.get(piece.name) as Uint8Array).subarray(piece.from);
    return { body: { kind: "piece", ...piece, bytes: part.length }, tail: packPiece(part) };
  });
  await waitFor("it is served", async () => (await ask("sound")).status === 200);
  expect(lost).toBe(2);
  expect(worker.dispatches.length).toBeGreaterThan(0);
  const metrics = await (await fetch(`${gateway.admin}/metrics`)).text();
  for (const fault of ["sender", "content", "unavailable"])
    expect(metrics).toMatch(new RegExp(`model_faults_total\\{fault="${fault}"\\} [1-9]`));
  // The log names each, for whoever looks for it later.
  for (const name of ["damaged", "path", "deep"]) expect(gateway.log).toMatch(new RegExp(`"model":"${name}".*model not learned`));
});
