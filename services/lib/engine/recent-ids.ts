// The last ids of something that is over: a message that comes late must not begin it again. Bounded; what is older than that is ended by its lease.

const remembered = 4_096;

export class RecentIds {
  private readonly ids = new Set<string>();

  add(id: string): void {
    this.ids.add(id);
    if (this.ids.size > remembered) this.ids.delete(this.ids.values().next().value as string);
  }

  has(id: string): boolean {
    return this.ids.has(id);
  }
}
