// JSON of large answers, piece by piece: tens of megabytes at once would keep every stream of the process waiting for a second. Pure.

/** About as much as is written in a millisecond; of a text each 64 characters count as one. */
const partsOfPiece = 2_000;
const charactersOfPart = 64;
/** Of an element that is made when it is written. */
const partsOfLazy = 100;
const eagerLength = 64;

/** The same text as JSON.stringify's, for values without undefined in arrays. */
export function* jsonPieces(value: unknown): Generator<string, void> {
  if (partsOf(value, partsOfPiece) <= partsOfPiece || typeof value !== "object" || value === null) yield JSON.stringify(value);
  else if (Array.isArray(value)) yield* list(value);
  else yield* object(value as Record<string, unknown>);
}

function* list(value: readonly unknown[]): Generator<string, void> {
  let separator = "[";
  let from = 0;
  let parts = 0;
  for (let i = 0; i <= value.length; i++) {
    const own = i === value.length ? Number.POSITIVE_INFINITY : partsOf(value[i], partsOfPiece);
    parts += own;
    if (parts <= partsOfPiece) continue;
    if (from < i) {
      yield separator + JSON.stringify(value.slice(from, i)).slice(1, -1);
      separator = ",";
    }
    [from, parts] = [i, own];
    if (i === value.length || own <= partsOfPiece) continue;
    yield separator;
    yield* jsonPieces(value[i]);
    separator = ",";
    [from, parts] = [i + 1, 0];
  }
  yield separator === "[" ? "[]" : "]";
}

function* object(value: Record<string, unknown>): Generator<string, void> {
  let separator = "{";
  for (const [name, one] of Object.entries(value)) {
    if (one === undefined) continue;
    yield `${separator}${JSON.stringify(name)}:`;
    yield* jsonPieces(one);
    separator = ",";
  }
  yield separator === "{" ? "{}" : "}";
}

/** No further than the limit: what is larger is looked at again in its parts. */
function partsOf(value: unknown, limit: number): number {
  if (typeof value === "string") return 1 + value.length / charactersOfPart;
  if (typeof value !== "object" || value === null) return 1;
  if (value instanceof Lazy) return partsOfLazy;
  let parts = 1;
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length && parts <= limit; i++) parts += partsOf(value[i], limit - parts);
  } else {
    for (const name in value) {
      if (parts > limit) break;
      parts += 1 + partsOf((value as Record<string, unknown>)[name], limit - parts);
    }
  }
  return parts;
}

class Lazy<T> {
  private readonly make: () => T;

  constructor(make: () => T) {
    this.make = make;
  }

  toJSON(): T {
    return this.make();
  }
}

/** For JSON only: of a long list each element is made when it is written, and gone then. */
export function lazily<A, T>(all: readonly A[], of: (one: A) => T): T[] {
  return all.length <= eagerLength ? all.map(of) : all.map((one) => new Lazy(() => of(one)) as T);
}
