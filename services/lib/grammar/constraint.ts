// One request's grammar as its answer goes on: nothing is asked of the thought but that it does not end the answer; behind it every token follows
// the grammar. State is a function of the output so far, so a resumed request replays its tokens and goes on with the same masks.
import { PelagicError } from "../contracts/errors.ts";
import type { Constraint } from "../contracts/messages.ts";

/** What the engine asks before it samples, and tells after. */
export interface TokenConstraint {
  /** The ids that may come next, as a bit mask (RowSampling.allowedTokens). Rejects where the grammar cannot be compiled. */
  allowed(): Promise<Uint32Array>;
  /** A token that was not allowed makes the next allowed() reject. */
  accept(token: number): void;
  dispose(): void;
}

/** Where one answer is in its grammar. */
export interface Matcher {
  /** The tokens that may come behind these: bit id % 32 of word id / 32. Rejects where one of `accepted` may not come. */
  next(accepted: readonly number[]): Promise<Uint32Array>;
  dispose(): void;
}

export interface MatcherSource {
  /** Rejects where the text is no grammar. */
  matcher(grammar: string, endTokenIds: readonly number[]): Promise<Matcher>;
}

export class GrammarConstraint implements TokenConstraint {
  private readonly spec: Constraint;
  private readonly vocabularySize: number;
  private readonly matcher: Promise<Matcher>;
  private begun: boolean;
  /** Accepted since the matcher was last asked: it is there only some time after the first. */
  private pending: number[] = [];
  private disposed = false;

  constructor(source: MatcherSource, vocabularySize: number, spec: Constraint) {
    this.spec = spec;
    this.vocabularySize = vocabularySize;
    this.begun = spec.afterToken === null;
    this.matcher = source.matcher(spec.grammar, spec.endTokenIds);
    // Told to whoever asks next.
    this.matcher.catch(() => undefined);
  }

  async allowed(): Promise<Uint32Array> {
    if (!this.begun) return this.allButEnd();
    let matcher: Matcher;
    try {
      matcher = await this.matcher;
    } catch (error) {
      if (error instanceof PelagicError) throw error;
      throw new PelagicError(
        "invalid_request",
        `the grammar cannot be compiled: ${error instanceof Error ? error.message : String(error)}`,
        { param: "response_format" },
      );
    }
    const mask = await matcher.next(this.pending.splice(0));
    if (mask.every((word) => word === 0)) {
      throw new PelagicError("invalid_request", "no token goes on with what the format asks for", { param: "response_format" });
    }
    return mask;
  }

  accept(token: number): void {
    if (this.begun) this.pending.push(token);
    else if (token === this.spec.afterToken) this.begun = true;
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    void this.matcher.then((matcher) => matcher.dispose()).catch(() => undefined);
  }

  private allButEnd(): Uint32Array {
    const mask = new Uint32Array(Math.ceil(this.vocabularySize / 32)).fill(0xffffffff);
    for (const id of this.spec.endTokenIds) mask[id >>> 5] = (mask[id >>> 5] as number) & ~(1 << (id & 31));
    return mask;
  }
}
