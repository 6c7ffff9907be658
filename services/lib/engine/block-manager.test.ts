import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockManager } from "./block-manager.ts";

/** Keys of a sequence as they are in life: each names all of its prefix. */
function keysOf(sequence: string): string[] {
  return Array.from(sequence, (_, index) => sequence.slice(0, index + 1));
}

/** Opens, fills with fresh blocks and names all of them. */
function hold(blocks: BlockManager, owner: string, sequence: string): void {
  const keys = keysOf(sequence);
  const hits = blocks.open(owner, keys);
  expect(blocks.grow(owner, keys.length - hits)).toBe(true);
  for (const [index, key] of keys.entries()) blocks.register(owner, index, key);
}

describe("BlockManager", () => {
  it("shares a prefix, held or cached, and counts it once", () => {
    const blocks = new BlockManager(8);
    hold(blocks, "first", "abc");
    expect(blocks.lookup(keysOf("abx"))).toEqual({ hitBlocks: 2, idleHitBlocks: 0 });
    hold(blocks, "second", "abx");
    expect(blocks.table("second").slice(0, 2)).toEqual(blocks.table("first").slice(0, 2));
    expect([blocks.unshared("first"), blocks.unshared("second"), blocks.available]).toEqual([1, 1, 4]);

    blocks.close("first");
    expect([blocks.unshared("second"), blocks.cached, blocks.available]).toEqual([3, 1, 5]);
    expect(blocks.lookup(keysOf("abc"))).toEqual({ hitBlocks: 3, idleHitBlocks: 1 });
    expect(blocks.open("third", keysOf("abc"))).toBe(3);
    expect([blocks.cached, blocks.available]).toEqual([0, 4]);
    blocks.check();
  });

  it("evicts the least recently used, and of one sequence the tail first", () => {
    const blocks = new BlockManager(4);
    hold(blocks, "older", "ab");
    hold(blocks, "newer", "xy");
    blocks.close("older");
    blocks.close("newer");
    blocks.lookup(keysOf("ab"));
    const evicted: string[] = [];
    blocks.open("reader", []);
    for (let count = 0; count < 4; count++) {
      const before = blocks.keys();
      expect(blocks.grow("reader", 1)).toBe(true);
      evicted.push(...before.filter((key) => !blocks.keys().includes(key)));
    }
    expect(evicted).toEqual(["ab", "a", "xy", "x"]);
  });

  it("makes a block recent by opening it, not by looking it up", () => {
    const blocks = new BlockManager(2);
    hold(blocks, "first", "a");
    hold(blocks, "second", "b");
    blocks.close("first");
    blocks.close("second");
    blocks.open("first", ["a"]);
    blocks.close("first");
    blocks.lookup(["b"]);
    blocks.open("reader", []);
    blocks.grow("reader", 1);
    expect(blocks.keys()).toEqual(["a"]);
  });

  it("takes free blocks before it evicts", () => {
    const blocks = new BlockManager(2);
    hold(blocks, "first", "a");
    blocks.close("first");
    blocks.open("second", []);
    blocks.grow("second", 1);
    expect([blocks.free, blocks.cached, blocks.keys()]).toEqual([0, 1, ["a"]]);
  });

  it("keeps a second copy of a key private, and names it once the first is gone", () => {
    const blocks = new BlockManager(3);
    hold(blocks, "first", "a");
    blocks.open("second", []);
    blocks.grow("second", 1);
    blocks.register("second", 0, "a");
    expect(blocks.keys()).toEqual(["a"]);
    blocks.close("first");
    blocks.grow("second", 2);
    expect(blocks.keys()).toEqual([]);
    blocks.register("second", 0, "a");
    blocks.close("second");
    expect([blocks.free, blocks.cached, blocks.open("third", ["a"])]).toEqual([2, 1, 1]);
    blocks.check();
  });

  it("changes nothing when it cannot grow that far", () => {
    const blocks = new BlockManager(3);
    hold(blocks, "first", "a");
    blocks.close("first");
    blocks.open("second", []);
    blocks.grow("second", 1);
    blocks.takeEvents();
    expect(blocks.grow("second", 3)).toBe(false);
    expect([blocks.table("second").length, blocks.free, blocks.cached]).toEqual([1, 1, 1]);
    expect(blocks.takeEvents()).toEqual({ stored: [], removed: [] });
    expect(blocks.grow("second", 2)).toBe(true);
    expect([blocks.available, blocks.grow("second", 0), blocks.grow("second", 1)]).toEqual([0, true, false]);
  });

  it("announces only what is still so", () => {
    const blocks = new BlockManager(1);
    hold(blocks, "first", "a");
    blocks.close("first");
    hold(blocks, "second", "b");
    expect(blocks.takeEvents()).toEqual({ stored: ["b"], removed: [] });
    blocks.close("second");
    hold(blocks, "first", "a");
    blocks.close("first");
    hold(blocks, "second", "b");
    expect(blocks.takeEvents()).toEqual({ stored: [], removed: [] });
  });

  it("throws where its caller has a bug", () => {
    const blocks = new BlockManager(2);
    hold(blocks, "first", "a");
    expect(() => new BlockManager(0)).toThrow("block count 0");
    expect(() => blocks.open("first", [])).toThrow("open already");
    expect(() => blocks.close("second")).toThrow("no owner second");
    expect(() => blocks.table("second")).toThrow("no owner second");
    expect(() => blocks.grow("first", -1)).toThrow("cannot grow by -1");
    expect(() => blocks.register("first", 1, "b")).toThrow("has no block 1");
    expect(() => blocks.register("first", 0, "b")).toThrow("is a, not b");
    blocks.register("first", 0, "a");
    blocks.check();
  });
});

/** The slow obvious model: one record per block and scans over all of them. */
class Model {
  readonly blocks: { owners: string[]; key: string | undefined; idleSince: number }[];
  readonly tables = new Map<string, number[]>();
  readonly sequences = new Map<string, string>();
  /** The keys as a listener knows them, from events alone. */
  readonly announced = new Set<string>();
  clock = 0;

  constructor(count: number) {
    this.blocks = Array.from({ length: count }, () => ({ owners: [], key: undefined, idleSince: 0 }));
  }

  block(index: number) {
    return this.blocks[index] as Model["blocks"][number];
  }

  table(owner: string): number[] {
    return this.tables.get(owner) as number[];
  }

  find(key: string): number {
    return this.blocks.findIndex((block) => block.key === key);
  }

  hits(keys: string[]): number[] {
    const found = keys.map((key) => this.find(key));
    const firstMiss = found.indexOf(-1);
    return firstMiss === -1 ? found : found.slice(0, firstMiss);
  }

  free(): number[] {
    return this.indexes((block) => block.owners.length === 0 && block.key === undefined);
  }

  /** Least recently used first. */
  cached(): number[] {
    const cached = this.indexes((block) => block.owners.length === 0 && block.key !== undefined);
    return cached.sort((left, right) => this.block(left).idleSince - this.block(right).idleSince);
  }

  keys(): string[] {
    return this.blocks.flatMap((block) => block.key ?? []);
  }

  private indexes(matches: (block: Model["blocks"][number]) => boolean): number[] {
    return this.blocks.flatMap((block, index) => (matches(block) ? [index] : []));
  }
}

function compare(model: Model, real: BlockManager): void {
  real.check();
  expect(real.free).toBe(model.free().length);
  expect(real.cached).toBe(model.cached().length);
  expect(real.available).toBe(real.free + real.cached);
  expect(real.keys().sort()).toEqual(model.keys().sort());
  expect(real.owners()).toEqual([...model.tables.keys()]);
  for (const [owner, table] of model.tables) {
    expect(real.table(owner)).toEqual(table);
    expect(real.unshared(owner)).toBe(table.filter((block) => model.block(block).owners.length === 1).length);
  }
}

class Command implements fc.Command<Model, BlockManager> {
  readonly name: string;
  readonly possible: (model: Model) => boolean;
  readonly apply: (model: Model, real: BlockManager) => void;
  constructor(name: string, possible: (model: Model) => boolean, apply: (model: Model, real: BlockManager) => void) {
    this.name = name;
    this.possible = possible;
    this.apply = apply;
  }
  check(model: Readonly<Model>): boolean {
    return this.possible(model as Model);
  }
  run(model: Model, real: BlockManager): void {
    this.apply(model, real);
    compare(model, real);
  }
  toString(): string {
    return this.name;
  }
}

const open = (owner: string, sequence: string) =>
  new Command(
    `open ${owner} ${sequence}`,
    (model) => !model.tables.has(owner),
    (model, real) => {
      const keys = keysOf(sequence);
      const hits = model.hits(keys);
      const idle = hits.filter((block) => model.block(block).owners.length === 0);
      expect(real.lookup(keys)).toEqual({ hitBlocks: hits.length, idleHitBlocks: idle.length });
      compare(model, real);
      expect(real.open(owner, keys)).toBe(hits.length);
      for (const block of hits) model.block(block).owners.push(owner);
      model.tables.set(owner, hits);
      model.sequences.set(owner, sequence);
    },
  );

const grow = (owner: string, count: number) =>
  new Command(
    `grow ${owner} ${count}`,
    (model) => model.tables.has(owner),
    (model, real) => {
      const free = model.free();
      const cached = model.cached();
      const fits = count <= free.length + cached.length;
      expect(real.grow(owner, count)).toBe(fits);
      if (!fits) return;
      // Which free block comes first is the manager's choice; which cached block goes is not.
      const added = real.table(owner).slice(model.table(owner).length);
      const fromFree = Math.min(count, free.length);
      expect(free).toEqual(expect.arrayContaining(added.slice(0, fromFree)));
      expect(added.slice(fromFree)).toEqual(cached.slice(0, count - fromFree));
      for (const block of added) {
        model.block(block).key = undefined;
        model.block(block).owners.push(owner);
        model.table(owner).push(block);
      }
    },
  );

const register = (owner: string, at: number) =>
  new Command(
    `register ${owner} ${at}`,
    (model) => at < Math.min(model.tables.get(owner)?.length ?? 0, model.sequences.get(owner)?.length ?? 0),
    (model, real) => {
      const key = model.sequences.get(owner)?.slice(0, at + 1) as string;
      real.register(owner, at, key);
      const block = model.block(model.table(owner)[at] as number);
      if (block.key === undefined && model.find(key) === -1) block.key = key;
    },
  );

const close = (owner: string) =>
  new Command(
    `close ${owner}`,
    (model) => model.tables.has(owner),
    (model, real) => {
      real.close(owner);
      for (const index of model.table(owner).toReversed()) {
        const block = model.block(index);
        block.owners = block.owners.filter((name) => name !== owner);
        block.idleSince = ++model.clock;
      }
      model.tables.delete(owner);
      model.sequences.delete(owner);
    },
  );

const listen = () =>
  new Command(
    "listen",
    () => true,
    (model, real) => {
      const { stored, removed } = real.takeEvents();
      for (const key of removed) expect(model.announced.delete(key)).toBe(true);
      for (const key of stored) {
        expect(model.announced.has(key)).toBe(false);
        model.announced.add(key);
      }
      expect([...model.announced].sort()).toEqual(model.keys().sort());
    },
  );

describe("BlockManager beside a slow model", () => {
  it("agrees after every command, and leaks nothing", () => {
    const owner = fc.constantFrom("p", "q", "r", "s", "t");
    const sequence = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 5 });
    const commands = fc.commands(
      [
        fc.tuple(owner, sequence).map(([name, text]) => open(name, text)),
        fc.tuple(owner, fc.nat(4)).map(([name, count]) => grow(name, count)),
        fc.tuple(owner, fc.nat(4)).map(([name, at]) => register(name, at)),
        fc.tuple(owner, fc.nat(2)).map(([name, at]) => register(name, at)),
        owner.map(close),
        fc.constant(listen()),
      ],
      { maxCommands: 120, size: "max" },
    );
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 12 }), commands, (count, run) => {
        const model = new Model(count);
        const real = new BlockManager(count);
        fc.modelRun(() => ({ model, real }), run);
        for (const name of real.owners()) close(name).run(model, real);
        listen().run(model, real);
        expect(real.available).toBe(count);
      }),
      { numRuns: 300 },
    );
  });
});
