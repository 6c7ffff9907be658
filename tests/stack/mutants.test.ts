// What `./pelagic simulate --mutants` would put in (that takes an hour) still fits the code as it is compiled.
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { inTree } from "../../services/cli/tree.ts";
import { mutants } from "../../services/lib/simulator/mutants.ts";

test.each(mutants.map(({ name, file, find }) => [name, file, find]))("%s: has one place", (_, file, find) => {
  expect(readFileSync(inTree("dist", "services", file), "utf8").split(find).length - 1).toBe(1);
});
