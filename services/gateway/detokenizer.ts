// Tokens of one stream to text, as they come. Bytes that do not yet make a whole character are held back.
import { TextDecoder } from "node:util";
import type { TokenTable } from "../lib/model/token-table.ts";

export class Detokenizer {
  private readonly table: TokenTable;
  /** Most answers need none: their tokens are whole characters. */
  private decoder: TextDecoder | null = null;
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
    return this.decoder?.decode() ?? "";
  }

  private get utf8(): TextDecoder {
    this.decoder ??= new TextDecoder("utf-8", { ignoreBOM: true });
    return this.decoder;
  }
}
