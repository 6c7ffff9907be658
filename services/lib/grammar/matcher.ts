// Grammars against a vocabulary: which tokens may come next. XGrammar does the work (Dong et al. 2024), compiled to WebAssembly.
import { readFileSync } from "node:fs";
import Module, { createRequire } from "node:module";
import type * as Xgrammar from "@mlc-ai/web-xgrammar";
import { asAscii } from "./ascii.ts";
import type { Matcher, MatcherSource } from "./constraint.ts";

type Library = Pick<typeof Xgrammar, "Grammar" | "GrammarCompiler" | "GrammarMatcher" | "TokenizerInfo">;
let library: Promise<Library> | undefined;

function xgrammar(): Promise<Library> {
  library ??= loadXgrammar();
  return library;
}

/** The package calls its CommonJS file a module, so Node can neither import nor require it as it is. */
async function loadXgrammar(): Promise<Library> {
  const file = createRequire(import.meta.url).resolve("@mlc-ai/web-xgrammar");
  const module = new Module(file) as Module & { _compile(source: string, file: string): void };
  module._compile(readFileSync(file, "utf8"), file);
  const loaded = module.exports as Library;
  // The first use makes its WebAssembly module, and two at once would make two.
  (await loaded.Grammar.fromEBNF('root ::= "a"')).dispose();
  return loaded;
}

export interface Vocabulary {
  /** Width of the model's logits: ids above the last token are never allowed. */
  size: number;
  /** The bytes of each id; none for tokens that are no ordinary text. */
  tokens: readonly Uint8Array[];
}

/** Grammars compiled last, ready to be matched again. */
const keptGrammars = 32;

export class GrammarCompiler implements MatcherSource {
  private readonly vocabulary: () => Vocabulary;
  private readonly compiled = new Map<string, Promise<Xgrammar.CompiledGrammar>>();
  private compiler: Promise<Xgrammar.GrammarCompiler> | undefined;

  /** `vocabulary` is asked for once, with the first grammar. */
  constructor(vocabulary: () => Vocabulary) {
    this.vocabulary = vocabulary;
  }

  /** Rejects where the text is no grammar in XGrammar's EBNF. */
  async matcher(ebnf: string, endTokenIds: readonly number[]): Promise<GrammarMatcher> {
    const compiled = await this.compile(ebnf);
    return new GrammarMatcher(await (await xgrammar()).GrammarMatcher.createGrammarMatcher(compiled, [...endTokenIds]), endTokenIds);
  }

  private compile(ebnf: string): Promise<Xgrammar.CompiledGrammar> {
    const known = this.compiled.get(ebnf);
    this.compiled.delete(ebnf);
    const compiled = known ?? this.compileAnew(ebnf);
    this.compiled.set(ebnf, compiled);
    compiled.catch(() => this.compiled.delete(ebnf));
    for (const oldest of this.compiled.keys()) {
      if (this.compiled.size <= keptGrammars) break;
      // Its matchers share what it holds.
      void this.compiled.get(oldest)?.then(
        (grammar) => grammar.dispose(),
        () => undefined,
      );
      this.compiled.delete(oldest);
    }
    return compiled;
  }

  private async compileAnew(ebnf: string): Promise<Xgrammar.CompiledGrammar> {
    const { Grammar } = await xgrammar();
    this.compiler ??= this.load();
    const grammar = await Grammar.fromEBNF(ebnf);
    try {
      return await (await this.compiler).compileGrammar(grammar);
    } finally {
      grammar.dispose();
    }
  }

  private async load(): Promise<Xgrammar.GrammarCompiler> {
    const { GrammarCompiler, TokenizerInfo } = await xgrammar();
    const { tokens, size } = this.vocabulary();
    const info = await TokenizerInfo.createTokenizerInfo(tokens.map(asAscii), "raw", false, size);
    // Its own cache has no bound.
    return GrammarCompiler.createGrammarCompiler(info, false);
  }
}

export class GrammarMatcher implements Matcher {
  private readonly matcher: Xgrammar.GrammarMatcher;
  private readonly endTokenIds: readonly number[];

  constructor(matcher: Xgrammar.GrammarMatcher, endTokenIds: readonly number[]) {
    this.matcher = matcher;
    this.endTokenIds = endTokenIds;
  }

  /** Bit id % 32 of word id / 32: tokens that may come next; end tokens where the text is complete. */
  async allowed(): Promise<Uint32Array> {
    const mask = Uint32Array.from(await this.matcher.getNextTokenBitmask());
    // XGrammar takes an end token in text that waits for a mark (TagDispatch), and leaves it out of the mask: so it is tried.
    for (const id of this.endTokenIds) {
      if (((mask[id >>> 5] as number) >>> (id & 31)) & 1) continue;
      if (!this.matcher.acceptToken(id)) continue;
      this.matcher.rollBack(1);
      mask[id >>> 5] = (mask[id >>> 5] as number) | (1 << (id & 31));
    }
    return mask;
  }

  next(accepted: readonly number[]): Promise<Uint32Array> {
    for (const token of accepted) {
      if (!this.accept(token)) return Promise.reject(new Error(`token ${token} is not what the grammar allows`));
    }
    return this.allowed();
  }

  /** False where the token may not come here; then nothing changed. */
  accept(token: number): boolean {
    return this.matcher.acceptToken(token);
  }

  dispose(): void {
    this.matcher.dispose();
  }
}
