// Who holds which KV block, and which full blocks can be used again by key. It decides and counts; the memory itself is the
// native cache's. A block is in one of three states:
//   held    in the table of one or more owners (only blocks with a key are ever shared)
//   cached  no owner, but a key: a hit until it is evicted
//   free    no owner, no key
// No IO, no clock, no randomness: the same calls give the same block numbers on every machine.
// A key names everything up to the end of its block (block-key.ts), so the keys of one sequence are distinct and a prefix of
// blocks is found by walking them. A violated precondition is a bug of the caller and throws.

export interface CacheHit {
  /** Blocks that open() would hit. */
  hitBlocks: number;
  /** How many of these have no owner now: using them lowers `available`. */
  idleHitBlocks: number;
}

/** Keys that became usable and keys that are gone, net, since the last call: known - removed + stored = keys(). */
export interface BlockEvents {
  stored: string[];
  removed: string[];
}

interface Owner {
  name: string;
  /** Numbers owners in order of opening; never used twice, and never 0. */
  serial: number;
  table: number[];
  /** Blocks of the table that no other owner holds. */
  unshared: number;
}

export class BlockManager {
  readonly total: number;

  readonly #keyOf: (string | undefined)[];
  readonly #blockOf = new Map<string, number>();
  readonly #ownerOf = new Map<string, Owner>();
  readonly #ownerBySerial = new Map<number, Owner>();
  #lastSerial = 0;

  /** How many owners hold the block, and the sum of their serials: with one holder left, the sum is that holder. */
  readonly #holders: Uint32Array;
  readonly #holderSum: Float64Array;

  readonly #freeBlocks: number[];

  // Cached blocks as a ring, least recently used first; index `total` is its anchor. A Set in insertion order would do, but
  // V8 walks over the holes that deletions leave at its front, which makes each eviction linear.
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  #cachedCount = 0;

  #stored = new Set<string>();
  #removed = new Set<string>();

  constructor(blockCount: number) {
    if (!Number.isSafeInteger(blockCount) || blockCount < 1) throw new Error(`block count ${blockCount}`);
    this.total = blockCount;
    this.#keyOf = new Array(blockCount).fill(undefined);
    this.#holders = new Uint32Array(blockCount);
    this.#holderSum = new Float64Array(blockCount);
    // A stack, filled so that block 0 is taken first.
    this.#freeBlocks = Array.from({ length: blockCount }, (_, index) => blockCount - 1 - index);
    this.#next = new Int32Array(blockCount + 1).fill(-1);
    this.#previous = new Int32Array(blockCount + 1).fill(-1);
    this.#next[blockCount] = blockCount;
    this.#previous[blockCount] = blockCount;
  }

  /** Blocks without owner and without key. */
  get free(): number {
    return this.#freeBlocks.length;
  }

  /** Blocks without owner that still have a key, and can be evicted. */
  get cached(): number {
    return this.#cachedCount;
  }

  /** What grow() can hand out. */
  get available(): number {
    return this.free + this.cached;
  }

  /** Starts the owner's table with the longest known prefix of `keys`; returns the number of blocks hit. */
  open(owner: string, keys: readonly string[]): number {
    if (this.#ownerOf.has(owner)) throw new Error(`owner ${owner} is open already`);
    const record: Owner = { name: owner, serial: ++this.#lastSerial, table: [], unshared: 0 };
    this.#ownerOf.set(owner, record);
    this.#ownerBySerial.set(record.serial, record);
    for (const key of keys) {
      const block = this.#blockOf.get(key);
      if (block === undefined) break;
      if (this.#holders[block] === 0) this.#unlinkCached(block);
      this.#hold(record, block);
    }
    return record.table.length;
  }

  /** What open() would hit; changes nothing, not even recency. */
  lookup(keys: readonly string[]): CacheHit {
    let hitBlocks = 0;
    let idleHitBlocks = 0;
    for (const key of keys) {
      const block = this.#blockOf.get(key);
      if (block === undefined) break;
      hitBlocks++;
      if (this.#holders[block] === 0) idleHitBlocks++;
    }
    return { hitBlocks, idleHitBlocks };
  }

  /** Appends fresh blocks, evicting cached ones where needed; false, and nothing changed, if not that many are available. */
  grow(owner: string, count: number): boolean {
    const record = this.#owner(owner);
    if (!Number.isSafeInteger(count) || count < 0) throw new Error(`owner ${owner} cannot grow by ${count} blocks`);
    if (count > this.available) return false;
    for (let grown = 0; grown < count; grown++) {
      this.#hold(record, this.#freeBlocks.pop() ?? this.#evictOldest());
    }
    return true;
  }

  /** The owner's blocks in order of rows. A live view: it changes with grow(). */
  table(owner: string): readonly number[] {
    return this.#owner(owner).table;
  }

  /** Blocks that only this owner holds: what closing it adds to `available`. */
  unshared(owner: string): number {
    return this.#owner(owner).unshared;
  }

  /**
   * Names the owner's full block `index`. If another block has the key already, that one keeps it and this one stays private
   * and unnamed: its rows are the same, and tables in use never change.
   */
  register(owner: string, index: number, key: string): void {
    const block = this.#owner(owner).table[index];
    if (block === undefined) throw new Error(`owner ${owner} has no block ${index}`);
    const known = this.#keyOf[block];
    if (known === key) return;
    if (known !== undefined) throw new Error(`block ${index} of owner ${owner} is ${known}, not ${key}`);
    if (this.#blockOf.has(key)) return;
    this.#keyOf[block] = key;
    this.#blockOf.set(key, block);
    if (!this.#removed.delete(key)) this.#stored.add(key);
  }

  /** Drops the owner. Blocks that nobody else holds become cached if they have a key, else free. */
  close(owner: string): void {
    const record = this.#owner(owner);
    this.#ownerOf.delete(owner);
    this.#ownerBySerial.delete(record.serial);
    // From the tail, so that the tail is evicted first: a prefix is of use without its continuation, never the reverse.
    for (const block of record.table.toReversed()) this.#release(record, block);
  }

  takeEvents(): BlockEvents {
    const events = { stored: [...this.#stored], removed: [...this.#removed] };
    this.#stored = new Set();
    this.#removed = new Set();
    return events;
  }

  /** Every key that open() can hit, held or cached. */
  keys(): string[] {
    return [...this.#blockOf.keys()];
  }

  owners(): string[] {
    return [...this.#ownerOf.keys()];
  }

  /** Recounts everything from the tables and throws where the books differ. Linear: for tests and a debug flag. */
  check(): void {
    const expect = (holds: boolean, what: string) => {
      if (!holds) throw new Error(`block manager: ${what}`);
    };
    const holderNames: string[][] = Array.from({ length: this.total }, () => []);
    for (const { name, table } of this.#ownerOf.values()) {
      for (const block of table) holderNames[block]?.push(name);
    }
    for (const { name, serial, table, unshared } of this.#ownerOf.values()) {
      expect(this.#ownerBySerial.get(serial)?.name === name, `owner ${name} is not found by its serial`);
      expect(new Set(table).size === table.length, `owner ${name} holds a block twice`);
      const alone = table.filter((block) => holderNames[block]?.length === 1).length;
      expect(alone === unshared, `owner ${name} holds ${alone} blocks alone, counted ${unshared}`);
    }
    expect(this.#ownerBySerial.size === this.#ownerOf.size, "an owner is closed but still has a serial");

    const free = new Set(this.#freeBlocks);
    expect(free.size === this.#freeBlocks.length, "a block is free twice");
    const cached = new Set<number>();
    for (let block = this.#next[this.total]; block !== this.total; block = this.#next[block as number]) {
      expect(block !== undefined && block >= 0 && !cached.has(block), "the list of cached blocks is broken");
      cached.add(block as number);
    }
    expect(cached.size === this.#cachedCount, `${cached.size} blocks are cached, counted ${this.#cachedCount}`);

    let named = 0;
    for (const [block, names] of holderNames.entries()) {
      const key = this.#keyOf[block];
      if (key !== undefined) {
        named++;
        expect(this.#blockOf.get(key) === block, `block ${block} is not found by its key`);
      }
      expect(names.length === this.#holders[block], `block ${block} has ${names.length} holders, counted ${this.#holders[block]}`);
      expect(names.length < 2 || key !== undefined, `block ${block} is shared without a key`);
      expect(cached.has(block) === (names.length === 0 && key !== undefined), `block ${block} is cached wrongly, or not cached`);
      expect(free.has(block) === (names.length === 0 && key === undefined), `block ${block} is free wrongly, or lost`);
    }
    expect(named === this.#blockOf.size, "a key names no block");
  }

  #owner(owner: string): Owner {
    const record = this.#ownerOf.get(owner);
    if (record === undefined) throw new Error(`no owner ${owner}`);
    return record;
  }

  #hold(record: Owner, block: number): void {
    const holders = this.#holders[block] as number;
    if (holders === 0) record.unshared++;
    if (holders === 1) this.#lastHolder(block).unshared--;
    this.#holders[block] = holders + 1;
    this.#holderSum[block] = (this.#holderSum[block] as number) + record.serial;
    record.table.push(block);
  }

  #release(record: Owner, block: number): void {
    const holders = (this.#holders[block] as number) - 1;
    this.#holders[block] = holders;
    this.#holderSum[block] = (this.#holderSum[block] as number) - record.serial;
    if (holders === 1) this.#lastHolder(block).unshared++;
    if (holders > 0) return;
    if (this.#keyOf[block] === undefined) this.#freeBlocks.push(block);
    else this.#linkCached(block);
  }

  #lastHolder(block: number): Owner {
    return this.#ownerBySerial.get(this.#holderSum[block] as number) as Owner;
  }

  #evictOldest(): number {
    const block = this.#next[this.total] as number;
    const key = this.#keyOf[block] as string;
    this.#unlinkCached(block);
    this.#keyOf[block] = undefined;
    this.#blockOf.delete(key);
    if (!this.#stored.delete(key)) this.#removed.add(key);
    return block;
  }

  #linkCached(block: number): void {
    const newest = this.#previous[this.total] as number;
    this.#next[newest] = block;
    this.#previous[block] = newest;
    this.#next[block] = this.total;
    this.#previous[this.total] = block;
    this.#cachedCount++;
  }

  #unlinkCached(block: number): void {
    const next = this.#next[block] as number;
    const previous = this.#previous[block] as number;
    this.#next[previous] = next;
    this.#previous[next] = previous;
    this.#cachedCount--;
  }
}
