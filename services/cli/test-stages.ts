// The stages of ./pelagic test: what each runs, and how many passed and failed in it.
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { relative } from "node:path";
import { chromiumBinary } from "./chromium-binary.ts";
import { apiServerPrograms } from "./cluster/api-server-programs.ts";
import { apiServerMissing, buildBinaries, missingBinaries } from "./cluster/binaries.ts";
import { machineFacts, whyNoCluster } from "./cluster/machine.ts";
import { installPackages } from "./cluster/packages.ts";
import { messageOf } from "./cli-error.ts";
import { buildNative, cmakeBuild, nativeTools, releaseBuild, sanitizerBuild, type NativeBuild } from "./native-build.ts";
import { natsServerBinary } from "./nats-binary.ts";
import { pinnedWheel, pinnedWheels } from "./pinned-wheels.ts";
import { findOnPath, runCommand } from "./run-command.ts";
import { inTree, treeRoot } from "./tree.ts";

export interface StageResult {
  passed: number;
  failed: number;
  /** What was left out and why, in words; never counted as passed. */
  skipped: string[];
  /** By name, where the stage knows them: who sees only the end of a long output must learn which. */
  failures?: string[];
}

export interface Stage {
  name: string;
  /** Left out by --fast. */
  slow?: boolean;
  run(print: (text: string) => void): Promise<StageResult>;
}

const timeoutMs = 1_800_000;
/** With the images to be made on two busy cores. */
const clusterTimeoutMs = 7_200_000;
/** Of kube-apiserver from an empty Go cache, which idle cores do in a third of it. */
const apiServerBuildMs = 900_000;
const onePassed: StageResult = { passed: 1, failed: 0, skipped: [] };
const oneFailed: StageResult = { passed: 0, failed: 1, skipped: [] };

export function testStages(fast: boolean): Stage[] {
  const stages: Stage[] = [
    { name: "build", run: build },
    commandStage("typecheck", "npm", ["run", "--silent", "typecheck"]),
    commandStage("lint and format (biome)", "npm", ["run", "--silent", "lint"]),
    commandStage("generated files", "npm", ["run", "--silent", "verify"]),
    { name: "C++ format", run: clangFormat },
    { name: "C++ tests", run: (print) => ctest(releaseBuild, print) },
    { name: "C++ tests under ASan and UBSan", slow: true, run: (print) => ctest(sanitizerBuild, print) },
    { name: "CUDA kernels compile and link", slow: true, run: cudaBuild },
    commandStage(`simulated faults, ${fast ? 500 : 10_000} runs`, process.execPath, [
      inTree("dist", "services", "cli", "main.js"),
      ...["simulate", "--runs", fast ? "500" : "10000"],
    ]),
    {
      name: fast ? "unit and integration tests" : "unit, integration and end-to-end tests",
      run: (print) => vitest(["unit", "integration", ...(fast ? [] : ["e2e"])], print),
    },
    { name: "published clients and load tools", slow: true, run: (print) => vitest(["clients"], print) },
    { name: "CRDs, planner and operator on a real Kubernetes API server", slow: true, run: apiServerTests },
  ];
  return stages.filter((stage) => !(fast && stage.slow));
}

/** Those that an API server alone is enough for, in a few minutes; the others are --cluster's. */
async function apiServerTests(print: (text: string) => void): Promise<StageResult> {
  const whyNot = await apiServerPrograms((text) => print(`${text}\n`), apiServerBuildMs);
  if (whyNot !== undefined) return { passed: 0, failed: 0, skipped: [`CRDs, planner and operator on an API server: ${whyNot}`] };
  return vitest(["api-server"], print);
}

/** Apart from the others: what they need is built in minutes, or not there at all. */
export function clusterStages(): Stage[] {
  return [
    { name: "build", run: build },
    { name: "Kubernetes' own programs, built where they are missing", run: kubernetesPrograms },
    {
      name: "operator, CRD, planner and chart on a real API server; all of it on a real node",
      run: async (print) => {
        const missing = apiServerMissing();
        if (missing !== undefined) return { passed: 0, failed: 0, skipped: [`all tests on an API server: ${missing}`] };
        // Each step with its seconds as soon as it is done.
        return vitest(["api-server", "cluster"], print, clusterTimeoutMs, "verbose");
      },
    },
  ];
}

/** Before the tests, which would leave out what they do not find. */
async function kubernetesPrograms(print: (text: string) => void): Promise<StageResult> {
  const progress = (text: string) => print(`${text}\n`);
  const missing = missingBinaries();
  const whyNot = whyNoCluster(await machineFacts(missing.map(({ name }) => name)));
  if (whyNot.length === 0) await installPackages(progress);
  // No node can run here; an API server needs no more than these.
  else if (findOnPath("etcd") === undefined || findOnPath("go") === undefined)
    return {
      passed: 0,
      failed: 0,
      skipped: [`Kubernetes' own programs: ${whyNot.join("; ")}; for an API server alone: etcd and Go on PATH`],
    };
  await buildBinaries(missing, progress);
  return onePassed;
}

async function build(print: (text: string) => void): Promise<StageResult> {
  const progress = (text: string) => print(`${text}\n`);
  await buildNative(progress, { onOutput: print, shown: true });
  await natsServerBinary(progress);
  return onePassed;
}

function commandStage(name: string, command: string, args: string[]): Stage {
  return {
    name,
    run: async (onOutput) =>
      (await runCommand(command, args, { cwd: treeRoot, timeoutMs, onOutput })).exitCode === 0 ? onePassed : oneFailed,
  };
}

async function clangFormat(print: (text: string) => void): Promise<StageResult> {
  let executable: string;
  try {
    executable = await pinnedWheel(pinnedWheels.clangFormat, (text) => print(`${text}\n`));
  } catch (error) {
    return { passed: 0, failed: 0, skipped: [`C++ format: ${messageOf(error)}`] };
  }
  const listed = await runCommand("git", ["ls-files", "kernels/*.cpp", "kernels/*.h", "kernels/*.cu", "kernels/*.cuh"], {
    cwd: treeRoot,
    timeoutMs,
  });
  const files = listed.stdout.split("\n").filter((file) => file !== "" && existsSync(inTree(file)));
  if (files.length === 0) return { passed: 0, failed: 0, skipped: ["C++ format: git lists no C++ files"] };
  const result = await runCommand(executable, ["--dry-run", "--Werror", ...files], { cwd: treeRoot, timeoutMs });
  if (result.exitCode === 0) return onePassed;
  const unformatted = new Set([...result.stderr.matchAll(/^(.+?):\d+:\d+: error/gm)].map((match) => match[1]));
  print(`not formatted: ${[...unformatted].join(" ")}\nmend with: ${executable} -i FILE...\n`);
  return oneFailed;
}

async function ctest(nativeBuild: NativeBuild, onOutput: (text: string) => void): Promise<StageResult> {
  const tools = await nativeTools(() => undefined);
  await cmakeBuild(tools, nativeBuild, { output: { onOutput, shown: true } });
  const args = ["--test-dir", nativeBuild.buildDir, "--output-on-failure", "--no-tests=error"];
  const result = await runCommand(tools.ctest, args, { timeoutMs, onOutput });
  return parseCtest(result.stdout) ?? oneFailed;
}

/** Needs no GPU; what the kernels compute is tested by build/cuda's own ctest where there is one. */
async function cudaBuild(onOutput: (text: string) => void): Promise<StageResult> {
  const tools = await nativeTools(() => undefined);
  const fetched = await runCommand(inTree("kernels", "cuda", "fetch_toolchain.sh"), [], { timeoutMs, onOutput });
  const root = fetched.stdout.trim();
  if (fetched.exitCode !== 0)
    return { passed: 0, failed: 0, skipped: ["CUDA kernels: the compiler could not be had from PyPI, see above"] };
  const buildDir = inTree("build", "cuda");
  const definitions = [`-DCUDA_ROOT=${root}`, `-DPELAGIC_CUDA_DIR=${buildDir}`, "-DPELAGIC_WARNINGS_ARE_ERRORS=ON"];
  await cmakeBuild(tools, { source: inTree("kernels", "cuda"), buildDir, definitions }, { output: { onOutput, shown: true } });
  return onePassed;
}

/** From ctest's closing line, "100% tests passed, 0 tests failed out of 12". */
export function parseCtest(output: string): StageResult | undefined {
  const counts = /tests passed, (\d+) tests? failed out of (\d+)/.exec(output);
  if (!counts) return undefined;
  const failed = Number(counts[1]);
  const failures = [...output.matchAll(/^\s*\d+ - (\S+) \((?:Failed|Timeout|SEGFAULT|Subprocess aborted|Not Run)\)/gm)].map(
    (match) => `C++ test ${match[1]}`,
  );
  const skipped = [...output.matchAll(/^\s*\d+ - (\S+) \((?:Skipped|Disabled)\)/gm)].map((match) => `C++ test ${match[1]}`);
  return { passed: Number(counts[2]) - failed - skipped.length, failed, skipped, failures };
}

async function vitest(projects: string[], print: (text: string) => void, boundMs = timeoutMs, reporter = "default"): Promise<StageResult> {
  // Here, where its progress can be seen. Without one the tests that need it fail.
  if (projects.includes("e2e"))
    await chromiumBinary((text) => print(`${text}\n`)).catch((error: unknown) => print(`${messageOf(error)}\n`));
  const report = inTree("build", "vitest.json");
  mkdirSync(inTree("build"), { recursive: true });
  rmSync(report, { force: true });
  const args = [
    "vitest",
    "run",
    `--reporter=${reporter}`,
    "--reporter=json",
    `--outputFile.json=${report}`,
    ...projects.map((name) => `--project=${name}`),
  ];
  const result = await runCommand("npx", ["--no-install", ...args], { cwd: treeRoot, timeoutMs: boundMs, onOutput: print });
  if (!existsSync(report)) return oneFailed;
  const counted = parseVitest(readFileSync(report, "utf8"));
  // A file that does not load, or an error outside any test, fails the run without a failed test.
  if (result.exitCode !== 0 && counted.failed === 0) return { ...counted, failed: 1 };
  return counted;
}

interface VitestReport {
  numPassedTests: number;
  numFailedTests: number;
  testResults: {
    name: string;
    status: string;
    message?: string;
    assertionResults: { status: string; fullName: string; failureMessages?: string[] }[];
  }[];
}

const shownOfMessage = 300;

function firstLine(message: string | undefined): string {
  const line = message?.split("\n").find((text) => text.trim() !== "");
  return line === undefined ? "" : `: ${line.trim().slice(0, shownOfMessage)}`;
}

export function parseVitest(json: string): StageResult {
  const report = JSON.parse(json) as VitestReport;
  const unloaded = report.testResults.filter((file) => file.status === "failed" && file.assertionResults.length === 0);
  const skipped = report.testResults.flatMap((file) =>
    file.assertionResults.filter(({ status }) => status !== "passed" && status !== "failed").map(({ fullName }) => fullName),
  );
  const failures = report.testResults.flatMap((file) =>
    file.assertionResults
      .filter(({ status }) => status === "failed")
      .map(({ fullName, failureMessages }) => `${relative(treeRoot, file.name)}: ${fullName}${firstLine(failureMessages?.[0])}`),
  );
  failures.push(...unloaded.map(({ name, message }) => `${relative(treeRoot, name)}: did not load${firstLine(message)}`));
  return { passed: report.numPassedTests, failed: report.numFailedTests + unloaded.length, skipped, failures };
}
