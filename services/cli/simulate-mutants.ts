// ./pelagic simulate --mutants: puts each one-line bug into a copy of the compiled code and runs the simulation there until it fails.
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type Mutant, mutants } from "../lib/simulator/mutants.ts";
import { CliError } from "./cli-error.ts";
import { inTree } from "./tree.ts";

/** So many seeds must be enough to find any of them. */
const seedsEach = 2_000;
/** Nothing is said of a mutant that takes longer. */
const boundMs = 900_000;

interface Verdict {
  name: string;
  verdict: "found" | "survived" | "stale" | "undecided";
  /** The seed that failed, and how; or that it crashed. */
  how: string;
  seconds: number;
}

export async function runMutants({ json, threads }: { json: boolean; threads: number | undefined }): Promise<void> {
  const base = inTree("build", "mutants");
  const verdicts: Verdict[] = [];
  const waiting = [...mutants.entries()];
  // The control: what finds the mutants must not find anything in the code as it is.
  const control = await judge(
    { name: "none", file: "lib/contracts/wire.js", find: "checksum(out, json.length)", replace: "checksum(out, json.length)" },
    join(base, "control"),
    200,
  );
  if (control.verdict !== "survived") throw new CliError(`the code without a mutant is ${control.verdict}: ${control.how}`);
  const lane = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [index, mutant] = next;
      const begunMs = performance.now();
      const { verdict, how } = await judge(mutant, join(base, String(index)));
      verdicts.push({ name: mutant.name, verdict, how, seconds: Math.round((performance.now() - begunMs) / 100) / 10 });
      if (!json) process.stdout.write(`${verdict.padEnd(9)} ${mutant.name} (${verdicts.at(-1)?.seconds} s)\n`);
    }
  };
  try {
    await Promise.all(Array.from({ length: threads ?? availableParallelism() }, lane));
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
  const wrong = verdicts.filter(({ verdict }) => verdict !== "found");
  if (json) process.stdout.write(`${JSON.stringify({ mutants: mutants.length, found: mutants.length - wrong.length, verdicts })}\n`);
  else process.stdout.write(`${mutants.length - wrong.length} of ${mutants.length} mutants found\n`);
  if (wrong.length > 0) throw new CliError(`not found: ${wrong.map(({ name, verdict }) => `${name} (${verdict})`).join("; ")}`);
}

async function judge({ file, find, replace, aim }: Mutant, folder: string, runs = seedsEach): Promise<Pick<Verdict, "verdict" | "how">> {
  // Inside the tree, so that packages are found; only the services, without their maps.
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(inTree("dist", "services"), join(folder, "services"), { recursive: true, filter: (path) => !path.endsWith(".map") });
  const path = join(folder, "services", file);
  const text = readFileSync(path, "utf8");
  if (text.split(find).length !== 2) return { verdict: "stale", how: `${file} has the text ${text.split(find).length - 1} times` };
  writeFileSync(
    path,
    text.replace(find, () => replace),
  );
  const result = await new Promise<Pick<Verdict, "verdict" | "how">>((resolve, reject) => {
    const args = [join(folder, "services", "lib", "simulator", "until-failure.js"), String(runs)];
    if (aim) args.push(aim.point, aim.kind);
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"], timeout: boundMs, killSignal: "SIGKILL" });
    let said = "";
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding("utf8").on("data", (text: string) => (said = (said + text).slice(-4_096)));
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const how = said.trim().split("\n").at(-1) ?? "";
      if (code === 0) resolve({ verdict: "survived", how });
      // A seed that fails; a child that could not even start proves nothing.
      else if (code === 1 && how.startsWith("seed ")) resolve({ verdict: "found", how });
      else resolve({ verdict: "undecided", how: signal === null ? how : `not done within ${boundMs / 1000} s` });
    });
  });
  rmSync(folder, { recursive: true, force: true });
  return result;
}
