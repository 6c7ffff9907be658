// Runs the built addon on a model folder: node addon_test.mjs ADDON DIR. Behaviour that only the binding has: promises, callbacks, errors, closing.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";
import { spawnSync } from "node:child_process";

const [addonPath, dir] = process.argv.slice(2);
const native = createRequire(import.meta.url)(addonPath);
const options = { dir, kvDtype: "bfloat16", threads: 2, isa: "auto", kvBlocks: 8 };
const greedy = { temperature: 0, seed: 1n, choice: 0, logprobs: 2 };

/** One sequence of `count` rows from position `start` on. */
function batch(count, { start = 0, blocks = [0, 1, 2, 3], logitRows = [], sampling = null } = {}) {
  return {
    tokens: Uint32Array.from({ length: count }, (_, i) => (start + i) % 50),
    rowCounts: Uint32Array.of(count),
    startPositions: Uint32Array.of(start),
    promptLengths: Uint32Array.of(count),
    blockTable: Uint32Array.from(blocks),
    blockOffsets: Uint32Array.of(0, blocks.length),
    logitRows: Uint32Array.from(logitRows),
    sampling: logitRows.map(() => sampling),
    digests: true,
  };
}

const coded = (code, message) => (error) => error instanceof Error && error.code === code && message.test(error.message);

test("xxh64 and the instruction set", () => {
  assert.equal(native.xxh64(new Uint8Array(0)), 0xef46db3751d8e999n);
  assert.equal(native.xxh64(new TextEncoder().encode("hello")), 0x26c7827d889f6da3n);
  assert.notEqual(native.xxh64(new Uint8Array(3), 1n), native.xxh64(new Uint8Array(3)));
  assert.throws(() => native.xxh64([1]), coded("argument", /Uint8Array/));
  assert.ok(["scalar", "avx2", "avx512"].includes(native.bestIsa()));
});

test("measured ceilings are positive", async () => {
  assert.ok((await native.measureReadBandwidth(1 << 20, 2)) > 1e8);
  assert.ok((await native.measureFmaRate(1)) > 1e8);
  await assert.rejects(native.measureFmaRate(0), coded("argument", /threads/));
});

test("options that are wrong reject with a code", async () => {
  await assert.rejects(native.loadModel(), coded("argument", /options/));
  await assert.rejects(native.loadModel({ ...options, isa: "mmx" }), coded("argument", /isa/));
  await assert.rejects(native.loadModel({ ...options, threads: 0 }), coded("argument", /threads/));
  await assert.rejects(native.loadModel({ ...options, dir: "/nowhere" }), coded("checkpoint", /config\.json/));
  await assert.rejects(native.loadModel({ ...options, kvBlocks: 2 ** 31 - 1 }), coded("memory", /kvBlocks/));
});

test("a model from loading to closing", async () => {
  const progress = [];
  const model = await native.loadModel(options, (done, total) => progress.push([done, total]));
  assert.ok(progress.length > 1 && progress.at(-1)[0] === progress.at(-1)[1]);
  const { info } = model;
  assert.equal(info.threads, 2);
  assert.ok(info.activeWeightBytes <= info.weightBytes);

  const layers = [];
  const [result] = await model.step(batch(70, { logitRows: [5, 69], sampling: greedy }), (layer) => layers.push(layer));
  assert.deepEqual(
    layers,
    Array.from({ length: info.layerCount }, (_, i) => i),
  );
  assert.equal(result.tokens.length, 2);
  assert.equal(result.topTokens[1][0], result.tokens[1]);
  assert.ok(result.logprobs[0] <= 0);
  assert.equal(result.expertCounts.length, info.moeLayerCount * info.logicalExpertCount);

  const [again] = await model.step(batch(1, { start: 69, logitRows: [0] }));
  assert.equal(again.digests[0], result.digests[1]);
  assert.deepEqual([...again.tokens], [-1]);
  assert.ok(Number.isNaN(again.logprobs[0]));

  const decode = batch(1, { start: 70, logitRows: [0], sampling: greedy });
  const steps = await model.step({ ...decode, steps: 3, budgetMs: 1e6 });
  assert.equal(steps.length, 3);
  const next = { ...decode, tokens: Uint32Array.of(steps[0].tokens[0]), startPositions: Uint32Array.of(71) };
  assert.deepEqual((await model.step(next))[0].digests, steps[1].digests);
  const stopTokens = Uint32Array.of(steps[0].tokens[0]);
  assert.equal((await model.step({ ...decode, sampling: [{ ...greedy, stopTokens }], steps: 3, budgetMs: 1e6 })).length, 1);
  assert.equal((await model.step({ ...decode, steps: 3, budgetMs: 0 })).length, 1);
  await assert.rejects(model.step({ ...decode, steps: 0, budgetMs: 1 }), coded("argument", /steps/));
  await assert.rejects(model.step({ ...decode, steps: 2 }), coded("argument", /budgetMs/));
  await assert.rejects(model.step({ ...batch(2), steps: 2, budgetMs: 1 }), coded("argument", /one row/));

  const bytes = new Uint8Array(64 * info.latentWidth * 2 + 4);
  const hash = model.packRows(0, 0, 0, 64, bytes, 4);
  assert.equal(hash, native.xxh64(bytes.subarray(4)));
  model.copyBlock(0, 6);
  assert.equal(model.packRows(0, 6, 0, 64, bytes, 4), hash);
  assert.throws(() => model.packRows(0, 0, 0, 64, bytes, 5), coded("argument", /bytes/));
  assert.throws(() => model.packRows(0, 0, 1, 64, bytes, 0), coded("argument", /leave the block/));
  assert.throws(() => model.copyBlock(0, 8), coded("argument", /block 8/));

  const frame = Uint8Array.from({ length: 64 + 10 * info.latentWidth * 2 }, (_, i) => i);
  const word = (at) => new DataView(frame.buffer).getBigUint64(at, true);
  model.packFrame(0, 0, 3, 10, frame);
  assert.deepEqual(
    [...frame.subarray(0, 48)],
    Array.from({ length: 48 }, (_, i) => i),
  );
  assert.equal(word(48), native.xxh64(frame.subarray(64)));
  assert.equal(word(56), native.xxh64(frame.subarray(0, 56)));
  assert.equal(model.unpackFrame(0, 7, 20, 10, frame), true);
  const rows = new Uint8Array(10 * info.latentWidth * 2);
  assert.equal(model.packRows(0, 7, 20, 10, rows, 0), word(48));
  for (const at of [0, 50, 60, 64, frame.length - 1]) {
    frame[at] ^= 4;
    assert.equal(model.unpackFrame(0, 7, 20, 10, frame), false, `byte ${at}`);
    frame[at] ^= 4;
  }
  assert.throws(() => model.packFrame(0, 0, 0, 11, frame), coded("argument", /frame has/));
  assert.throws(() => model.unpackFrame(0, 0, 60, 10, frame), coded("argument", /leave the block/));

  const running = model.step(batch(70));
  await assert.rejects(model.step(batch(1)), coded("busy", /another step/));
  await running;
  await assert.rejects(model.step({ ...batch(1), tokens: Uint32Array.of(1e9) }), coded("argument", /tokens\[0\]/));
  await assert.rejects(model.step({ ...batch(1), tokens: [1] }), coded("argument", /tokens must be a Uint32Array/));
  const wrongSeed = { ...greedy, seed: -1n };
  await assert.rejects(model.step(batch(1, { logitRows: [0], sampling: wrongSeed })), coded("argument", /sampling\[0\]\.seed/));
  const thrown = () => {
    throw new Error("mine");
  };
  await assert.rejects(model.step(batch(1), thrown), /mine/);

  const last = model.step(batch(70));
  await Promise.all([model.close(), model.close()]);
  await last;
  await model.close();
  await assert.rejects(model.step(batch(1)), coded("argument", /closed/));
  assert.throws(() => model.packRows(0, 0, 0, 1, bytes, 0), coded("argument", /closed/));
});

test("the process exits by itself after close, with an idle model open, and in the middle of a step", () => {
  const load = `const m = await require(${JSON.stringify(addonPath)}).loadModel(${JSON.stringify(options)});`;
  const step = `m.step({tokens:new Uint32Array(200),rowCounts:Uint32Array.of(200),startPositions:Uint32Array.of(0),promptLengths:Uint32Array.of(1),
    blockTable:Uint32Array.of(0,1,2,3),blockOffsets:Uint32Array.of(0,4),logitRows:new Uint32Array(),sampling:[]}, () => {});`;
  for (const then of ["await m.close();", "", `${step} setImmediate(() => process.exit(0));`]) {
    const child = spawnSync(process.execPath, ["-e", `(async () => { ${load} ${then} })()`], { timeout: 20_000 });
    assert.equal(child.status, 0, `${then}: ${child.signal} ${child.stderr}`);
  }
});

/** Models of the ranks of one plan, in this process. */
async function loadRanks(slots, rankCount, onLost = () => {}) {
  const { moeLayerCount } = await native.loadModel(options).then(async (model) => {
    const { info } = model;
    await model.close();
    return info;
  });
  const plan = { version: 1, rankCount, slotsPerRank: slots.length / rankCount, layers: Array(moeLayerCount).fill(slots) };
  const secrets = Array.from({ length: rankCount }, (_, rank) => new Uint8Array(32).fill(rank + 1));
  const models = await Promise.all(
    secrets.map((secret, rank) =>
      native.loadModel({
        ...options,
        threads: 1,
        ranks: {
          rank,
          plan,
          ranksPerNode: 1,
          localFirst: false,
          host: "127.0.0.1",
          port: 0,
          secret,
          onLost: (error) => onLost(rank, error),
        },
      }),
    ),
  );
  const addresses = models.map((model, rank) => ({ host: "127.0.0.1", port: model.rankPort, secret: secrets[rank] }));
  let group = 0;
  const meet = (members = models.map(() => true)) => {
    const meeting = {
      group: new Uint8Array(16).fill(++group),
      ranks: addresses.map((address, rank) => (members[rank] ? address : null)),
      meetMs: 20_000,
      silenceMs: 20_000,
      longestWaitMs: 20_000,
    };
    return Promise.all(models.map((model, rank) => members[rank] && model.meet(meeting)));
  };
  return { models, meet };
}

test("ranks share the experts: an idle one takes part by itself, a lost one is named, those left go on with the same bits", async () => {
  const whole = await native.loadModel(options);
  const { logicalExpertCount: experts } = whole.info;
  const work = () => batch(20, { logitRows: Array.from({ length: 20 }, (_, i) => i) });
  const [{ digests: wanted }] = await whole.step(work());
  await whole.close();
  const all = Array.from({ length: experts }, (_, i) => i);
  let lost;
  const heard = new Promise((resolve) => {
    lost = (rank, error) => rank === 1 && resolve(error);
  });
  // Each expert on two of three ranks, at the least.
  const { models, meet } = await loadRanks([...all, ...all.slice(experts / 2), ...all, ...all.slice(0, experts / 2)], 3, lost);
  await assert.rejects(models[0].step(work()), coded("rank-lost", /have not met/));
  await meet();
  for (const model of [models[0], models[2]]) {
    const [{ digests }] = await model.step(work());
    assert.deepEqual(digests, wanted);
  }
  const both = await Promise.all([models[0].step(work()), models[1].step(work())]);
  for (const [{ digests }] of both) assert.deepEqual(digests, wanted);
  assert.ok(models[1].rankCounters.steps >= 3 && models[1].rankCounters.emptySteps >= 2);
  assert.ok(models[0].rankCounters.farCopies > 0);
  // An idle model keeps no process alive.
  const alive = setInterval(() => {}, 1_000);
  await models[2].close();
  const end = await heard;
  assert.ok(coded("rank-lost", /rank 2 has left this group: it was stopped/)(end));
  // Nobody is lost where a rank was closed.
  assert.equal(end.byItself, true);
  clearInterval(alive);
  await assert.rejects(models[0].step(work()), coded("rank-lost", /rank 2 has left/));
  await meet([true, true, false]);
  const [{ digests }] = await models[0].step(work());
  assert.deepEqual(digests, wanted);
  await Promise.all([models[0].close(), models[1].close()]);
});

test("a plan that all ranks hear of comes into force layer by layer while they step, and without any step while they have no work", async () => {
  const whole = await native.loadModel(options);
  const { logicalExpertCount: experts, moeLayerCount } = whole.info;
  const work = () => batch(20, { logitRows: Array.from({ length: 20 }, (_, i) => i) });
  const [{ digests: wanted }] = await whole.step(work());
  await whole.close();
  const all = Array.from({ length: experts }, (_, i) => i);
  const { models, meet } = await loadRanks(all, 2);
  await meet();
  const plan = (version, slots) => ({ version, rankCount: 2, slotsPerRank: experts / 2, layers: Array(moeLayerCount).fill(slots) });
  const settled = async (version) => {
    while (
      !models.every(({ placementState: { version: v, layersTaken, next } }) => v === version && layersTaken === moeLayerCount && next === 0)
    )
      await new Promise((resolve) => setTimeout(resolve, 2));
  };
  const turned = plan(2, all.toReversed());
  for (const model of models) assert.equal(model.stagePlan(turned, 1e9), true);
  assert.equal(models[0].stagePlan(turned, 1e9), false);
  assert.deepEqual((await models[0].step(work()))[0].digests, wanted);
  await settled(2);
  assert.deepEqual(
    models.map(({ planInForce }) => planInForce),
    [turned, turned],
  );
  assert.equal(models[0].placementState.loadedExperts, (moeLayerCount * experts) / 2);
  assert.ok(models[0].placementState.loadedBytes > 0);
  assert.deepEqual((await models[1].step(work()))[0].digests, wanted);
  // Nobody steps.
  for (const model of models) model.stagePlan(plan(3, all), 1e9);
  await settled(3);
  assert.throws(() => models[0].stagePlan({ ...turned, version: 4, slotsPerRank: 1 }, 1), coded("argument", /plan\.layers\[0\]\.length/));
  assert.throws(() => models[0].stagePlan(turned, 0), coded("argument", /bytesPerSecond/));
  await assert.rejects(models[0].conform({ ...turned, layers: [["x"]] }), coded("argument", /plan\.layers\[0\]\[0\]/));
  await Promise.all(models.map((model) => model.conform(turned)));
  await assert.rejects(models[0].step(work()), (error) => {
    assert.deepEqual([error.code, error.byItself], ["rank-lost", true]);
    return /goes by another expert plan/.test(error.message);
  });
  await meet();
  assert.deepEqual((await models[0].step(work()))[0].digests, wanted);
  await Promise.all(models.map((model) => model.close()));
});

test("ranks that make no sense are refused by name", async () => {
  const ranks = { rank: 0, ranksPerNode: 1, localFirst: false, host: "127.0.0.1", port: 0, secret: new Uint8Array(32) };
  const plan = { version: 1, rankCount: 1, slotsPerRank: 1, layers: [[0]] };
  const load = (changes) => native.loadModel({ ...options, ranks: { ...ranks, plan, ...changes } });
  await assert.rejects(load({}), coded("argument", /plan\.layers/));
  await assert.rejects(load({ secret: new Uint8Array(3) }), coded("argument", /ranks\.secret has 3 bytes/));
  await assert.rejects(load({ plan: { ...plan, layers: [["x"]] } }), coded("argument", /ranks\.plan\.layers\[0\]\[0\]/));
  await assert.rejects(load({ host: 5 }), coded("argument", /ranks\.host/));
  const model = await native.loadModel(options);
  assert.equal(model.rankPort, undefined);
  await assert.rejects(model.meet({}), coded("argument", /without ranks/));
  await model.close();
});
