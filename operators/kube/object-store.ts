// What an informer knows of one kind of objects. The newest of each wins, whether a list, a watch or the answer to our own write brought it: so a
// round that follows a write sees it, though the watch has not told of it yet.
import type { ObjectMeta } from "../planner/kubernetes.ts";

export interface ApiObject {
  apiVersion?: string;
  kind?: string;
  metadata: ObjectMeta & { resourceVersion: string };
}

export type Change<T> = (before: T | undefined, after: T | undefined) => void;

export class ObjectStore<T extends ApiObject> {
  private readonly objects = new Map<string, T>();
  private readonly groups = new Map<string, Set<string>>();
  private listedVersion: string | undefined;

  /** `groupOf`: what group() finds an object by. */
  constructor(
    private readonly groupOf: (object: T) => string | undefined,
    private readonly changed: Change<T>,
  ) {}

  get size(): number {
    return this.objects.size;
  }

  get(key: string): T | undefined {
    return this.objects.get(key);
  }

  all(): T[] {
    return [...this.objects.values()];
  }

  group(name: string): T[] {
    return [...(this.groups.get(name) ?? [])].map((key) => this.objects.get(key) as T);
  }

  /** A whole list. What is not in it is gone, but for what was written after it was taken. */
  replace(items: T[], version: string): void {
    const listed = new Set(items.map(keyOf));
    // Versions only go back where the API server's own store was: one from a backup. What was newer never happened.
    const isRestored = this.listedVersion !== undefined && isNewer(this.listedVersion, version);
    if (isRestored) for (const key of [...this.objects.keys()]) this.set(key, undefined);
    this.listedVersion = version;
    for (const item of items) this.put(item);
    for (const [key, object] of [...this.objects]) {
      if (!listed.has(key) && !isNewer(object.metadata.resourceVersion, version)) this.set(key, undefined);
    }
  }

  /** The answer to a write of ours. What the watch is past already, it has told of. */
  learn(object: T, watchedVersion: string | undefined): void {
    if (watchedVersion === undefined || isNewer(object.metadata.resourceVersion, watchedVersion)) this.put(object);
  }

  /** Unless something newer of it is known. */
  put(object: T): void {
    // Who wrote which field is half of an object, and nobody's business here.
    delete (object.metadata as { managedFields?: unknown }).managedFields;
    const known = this.objects.get(keyOf(object));
    const sameOne = known?.metadata.uid === object.metadata.uid;
    if (known !== undefined && sameOne && !isNewer(object.metadata.resourceVersion, known.metadata.resourceVersion)) return;
    // Of a namesake that is gone already.
    if (known !== undefined && !sameOne && isNewer(known.metadata.resourceVersion, object.metadata.resourceVersion)) return;
    this.set(keyOf(object), object);
  }

  delete(object: T): void {
    const key = keyOf(object);
    if (this.objects.get(key)?.metadata.uid === object.metadata.uid) this.set(key, undefined);
  }

  private set(key: string, object: T | undefined): void {
    const before = this.objects.get(key);
    if (object === undefined) this.objects.delete(key);
    else this.objects.set(key, object);
    const [left, joined] = [before && this.groupOf(before), object && this.groupOf(object)];
    if (left !== joined) {
      if (left !== undefined) {
        const group = this.groups.get(left);
        group?.delete(key);
        if (group?.size === 0) this.groups.delete(left);
      }
      if (joined !== undefined) this.groups.set(joined, (this.groups.get(joined) ?? new Set()).add(key));
    }
    if (before !== undefined || object !== undefined) this.changed(before, object);
  }
}

export function keyOf({ metadata: { namespace, name } }: ApiObject): string {
  return namespace === undefined ? name : `${namespace}/${name}`;
}

/** Versions are decimal numbers of any length that grow. */
export function isNewer(a: string, b: string): boolean {
  return a.length === b.length ? a > b : a.length > b.length;
}
