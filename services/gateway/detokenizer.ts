// Tokens of one stream to text, as they come. Bytes that do not yet make a whole character are held back.
import type { TokenTable } from "../lib/model/token-table.ts";

export class Detokenizer {
  private readonly table: TokenTable;
  private readonly utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  /** Bytes may be held back. */
  private holds = false;

  constructor(table: TokenTable) {
    this.table = table;
  }

  /** The text that this token completes. */
  push(id: number): string {
    const text = this.table.textOf(id);
    if (text !== null && !this.holds) return text;
    // Whole characters end what was held back, whatever it was.
    if (text !== "") this.holds = text === null;
    return this.utf8.decode(this.table.bytesOf(id), { stream: true });
  }

  /** What was held back, as replacement characters; the next token starts afresh. */
  flush(): string {
    this.holds = false;
    return this.utf8.decode();
  }
}
