import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PelagicError } from "../lib/contracts/errors.ts";
import { anyone, type Caller } from "./admission/api-keys.ts";
import { chooseModel, visibleModels } from "./model-choice.ts";

const served = (...names: string[]) => new Map(names.map((name) => [name, { name }]));
const scoped = (...names: string[]): Caller => ({ ...anyone, models: new Set(names) });

function refusal(act: () => unknown): PelagicError {
  try {
    act();
  } catch (error) {
    if (error instanceof PelagicError) return error;
  }
  throw new Error("not refused");
}

describe("the model that a request means", () => {
  it("is the one named, and one that is not served is a 404 that names those that are", () => {
    expect(chooseModel(served("a", "b"), "b", anyone)).toEqual({ name: "b" });
    const refused = refusal(() => chooseModel(served("a", "b"), "c", anyone));
    expect(refused).toMatchObject({ code: "model_not_found", status: 404, param: "model" });
    expect(refused.message).toBe('the model "c" is not served here; choose one of a, b');
  });

  it("may be left out where there is one only, and is otherwise asked for by name", () => {
    for (const absent of [undefined, null]) {
      expect(chooseModel(served("a"), absent, anyone)).toEqual({ name: "a" });
      const refused = refusal(() => chooseModel(served("a", "b"), absent, anyone));
      expect(refused).toMatchObject({ code: "invalid_request", status: 400, param: "model" });
      expect(refused.message).toContain("a, b");
    }
    // The key leaves one to choose.
    expect(chooseModel(served("a", "b"), undefined, scoped("b"))).toEqual({ name: "b" });
  });

  const names = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 8 }), { minLength: 1, maxLength: 6 });

  it("is served and allowed, or refused in words that tell nothing of models that the key may not use", () => {
    fc.assert(
      fc.property(names, names, fc.anything(), fc.boolean(), (all, allowed, anything, named) => {
        const models = served(...all);
        const caller = scoped(...allowed);
        const asked = named ? (all[0] as string) : anything;
        const visible = all.filter((name) => allowed.includes(name));
        expect([...visibleModels(models, caller).keys()]).toEqual(visible);
        let chosen: { name: string };
        try {
          chosen = chooseModel(models, asked, caller);
        } catch (error) {
          expect(error).toBeInstanceOf(PelagicError);
          const { code, message } = error as PelagicError;
          expect(code).toBe(typeof asked !== "string" && visible.length > 1 ? "invalid_request" : "model_not_found");
          // As if what the key may not use did not exist.
          const alone = refusal(() => chooseModel(served(...visible), asked, caller));
          expect([alone.code, alone.message]).toEqual([code, message]);
          return;
        }
        expect(visible).toContain(chosen.name);
        if (typeof asked === "string") expect(chosen.name).toBe(asked);
        else expect(visible).toEqual([chosen.name]);
      }),
      { numRuns: 500 },
    );
  });
});
