// Server-sent events out of a stream of text. Pure: text in, the data of whole events out.

export class EventStream {
  private rest = "";

  /** Whole lines only count; comments, which keep connections alive, and other fields are passed over. */
  push(text: string): string[] {
    const lines = (this.rest + text).split(/\r?\n/);
    this.rest = lines.pop() as string;
    return lines.flatMap((line) => (line.startsWith("data:") ? [line.slice(5).trimStart()] : []));
  }
}
