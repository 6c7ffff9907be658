import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { maxModels, parseModelList } from "./model-list.ts";

describe("a list of models", () => {
  it.each([
    ["/models/a", [{ name: "a", folder: "/models/a" }]],
    ["small=/models/a", [{ name: "small", folder: "/models/a" }]],
    ["deepseek-ai/V3=/models/v3", [{ name: "deepseek-ai/V3", folder: "/models/v3" }]],
    [
      "models/a/\nb=./x=y",
      [
        { name: "a", folder: "models/a/" },
        { name: "b", folder: "./x=y" },
      ],
    ],
    ["./x=y", [{ name: "x=y", folder: "./x=y" }]],
    ["/models/x=y,z", [{ name: "x=y,z", folder: "/models/x=y,z" }]],
  ])("%j", (text, models) => {
    expect(parseModelList(text)).toEqual(models);
  });

  it.each([
    ["/models/a\n/other/a", 'two models are named "a"'],
    ["a=", "names no folder"],
    ["=/models/a", '"" is no name'],
    ["a\n\nb", "names no folder"],
    ['say "a"=/models/a', "is no name"],
    [`${"a".repeat(257)}=/models/a`, "is no name"],
    [Array.from({ length: maxModels + 1 }, (_, i) => `m${i}=/models/a`).join("\n"), `at most ${maxModels}`],
  ])("%j is refused", (text, why) => {
    expect(() => parseModelList(text)).toThrow(why);
  });

  it("takes every list that it is given by names and folders", () => {
    const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9 ._/@-]{0,30}$/);
    const models = fc.uniqueArray(fc.record({ name, folder: fc.stringMatching(/^[./][^\n]{0,40}$/) }), {
      selector: ({ name }) => name,
      minLength: 1,
      maxLength: 8,
    });
    fc.assert(
      fc.property(models, (list) => {
        expect(parseModelList(list.map(({ name, folder }) => `${name}=${folder}`).join("\n"))).toEqual(list);
      }),
    );
  });
});
