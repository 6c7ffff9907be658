// The native engine: kernels/ built by CMake into build/native/pelagic.node, again only when something in kernels/ or
// testdata/goldens changed.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { CliError, messageOf } from "./cli-error.ts";
import { pinnedWheel, pinnedWheels } from "./pinned-wheels.ts";
import { findOnPath, lastLines, runCommand, type CommandOptions, type CommandResult } from "./run-command.ts";
import { inTree } from "./tree.ts";

export interface NativeTools {
  cmake: string;
  ctest: string;
  /** What CMake writes build files for. */
  generatorArgs: string[];
  compiler: string;
}

export interface NativeBuild {
  /** Where its CMakeLists.txt is; kernels/ unless given. */
  source?: string;
  buildDir: string;
  definitions: string[];
}

/** What kernels/CMakeLists.txt asks for. */
const oldestCmake = [3, 25] as const;
const buildTimeoutMs = 1_800_000;

export const releaseBuild: NativeBuild = { buildDir: inTree("build", "native-cmake"), definitions: ["-DCMAKE_BUILD_TYPE=Release"] };
export const sanitizerBuild: NativeBuild = {
  buildDir: inTree("build", "native-sanitize"),
  definitions: ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPELAGIC_SANITIZE=ON", "-DPELAGIC_WARNINGS_ARE_ERRORS=ON"],
};
/** The goldens with it, for check-model: they take no time. */
const builtTargets = ["pelagic_addon", "pelagic_goldens"];
export const addonPath = inTree("build", "native", "pelagic.node");
/** What kernels/CMakeLists.txt writes of testdata/goldens: the same folders, with their weights. */
export const goldensDir = join(releaseBuild.buildDir, "goldens");

export interface BuildOutput {
  onOutput: (chunk: string) => void;
  /** The user sees all of it, so an error need not repeat its end. */
  shown: boolean;
}

/** Builds the addon if it is due; true where something was built. */
export async function buildNative(progress: (text: string) => void, output?: BuildOutput): Promise<boolean> {
  const stampFile = inTree("build", "native", ".built-from");
  const digest = sourcesDigest();
  if (existsSync(addonPath) && existsSync(stampFile) && readFileSync(stampFile, "utf8") === digest) return false;
  const tools = await nativeTools(progress);
  progress(`building the native engine with ${tools.compiler} (the first time takes a minute or two)`);
  await cmakeBuild(tools, releaseBuild, { targets: builtTargets, output });
  if (!existsSync(addonPath)) throw new CliError(`the native build ended without ${addonPath}`);
  writeFileSync(stampFile, digest);
  return true;
}

/** Configures and builds, everything or some targets. */
export async function cmakeBuild(
  tools: NativeTools,
  build: NativeBuild,
  options: { targets?: string[]; output?: BuildOutput },
): Promise<void> {
  forgetMovedTree(build.buildDir);
  const env = { CXX: process.env.CXX ?? tools.compiler };
  const configure = ["-S", build.source ?? inTree("kernels"), "-B", build.buildDir, ...tools.generatorArgs, ...build.definitions];
  const { targets, output } = options;
  const commandOptions = { env, timeoutMs: buildTimeoutMs, onOutput: output?.onOutput };
  const details = (result: CommandResult) => (output?.shown ? " (see above)" : `:\n${lastLines(result, 15)}`);
  const configured = await runAlone(tools.cmake, configure, commandOptions);
  if (configured.exitCode !== 0) throw new CliError(`cmake could not configure ${build.buildDir}${details(configured)}`);
  const buildArgs = ["--build", build.buildDir, "--parallel", String(availableParallelism()), ...(targets ? ["--target", ...targets] : [])];
  const built = await runAlone(tools.cmake, buildArgs, commandOptions);
  if (built.exitCode !== 0) throw new CliError(`the native build failed${details(built)}`);
}

/** One CMake at a time in this tree. The lock is the kernel's, so it never outlives its holder; the second one finds the work done. */
function runAlone(command: string, args: string[], options: CommandOptions): Promise<CommandResult> {
  const flock = findOnPath("flock");
  mkdirSync(inTree("build"), { recursive: true });
  return flock === undefined
    ? runCommand(command, args, options)
    : runCommand(flock, [inTree("build", "native.lock"), command, ...args], options);
}

/** A C++20 compiler of the machine; CMake and Ninja of the machine, or else as pinned wheels. */
export async function nativeTools(progress: (text: string) => void): Promise<NativeTools> {
  const compiler = await cxx20Compiler();
  const cmake = await usableCmake(progress);
  const ninja = findOnPath("ninja");
  let generatorArgs: string[];
  if (ninja) generatorArgs = ["-G", "Ninja"];
  else if (findOnPath("make")) generatorArgs = ["-G", "Unix Makefiles"];
  else generatorArgs = ["-G", "Ninja", `-DCMAKE_MAKE_PROGRAM=${await wheelOr(pinnedWheels.ninja, progress, "ninja-build")}`];
  return { cmake, ctest: join(cmake, "..", "ctest"), generatorArgs, compiler };
}

async function cxx20Compiler(): Promise<string> {
  const candidates = [process.env.CXX, "g++", "clang++", "c++"].filter((name): name is string => Boolean(name));
  const found: string[] = [];
  const work = mkdtempSync(inTreeCache("cxx-"));
  try {
    const source = join(work, "probe.cpp");
    writeFileSync(
      source,
      "#include <concepts>\n#include <span>\n#include <thread>\nint main() { std::jthread t([] {}); return std::span<int>{}.size(); }\n",
    );
    for (const name of candidates) {
      const path = name.includes("/") ? name : findOnPath(name);
      if (path === undefined || !existsSync(path)) continue;
      found.push(name);
      const probe = await runCommand(path, ["-std=c++20", "-fsyntax-only", source], { timeoutMs: 60_000 });
      if (probe.exitCode === 0) return path;
    }
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  if (found.length > 0) throw new CliError(`${found.join(", ")}: too old for C++20. Install g++ 12 or later (Debian: apt-get install g++)`);
  throw new CliError("no C++ compiler: install g++ 12 or later (Debian: apt-get install g++)");
}

async function usableCmake(progress: (text: string) => void): Promise<string> {
  const path = findOnPath("cmake");
  if (path !== undefined) {
    const version = /version (\d+)\.(\d+)/.exec((await runCommand(path, ["--version"], { timeoutMs: 30_000 })).stdout);
    const [major, minor] = [Number(version?.[1]), Number(version?.[2])];
    if (version && (major > oldestCmake[0] || (major === oldestCmake[0] && minor >= oldestCmake[1]))) return path;
  }
  return wheelOr(pinnedWheels.cmake, progress, "cmake");
}

async function wheelOr(
  wheel: (typeof pinnedWheels)[keyof typeof pinnedWheels],
  progress: (text: string) => void,
  debian: string,
): Promise<string> {
  try {
    return await pinnedWheel(wheel, progress);
  } catch (error) {
    throw new CliError(`${wheel.name} is needed and could not be got: ${messageOf(error)}. Debian: apt-get install ${debian}`);
  }
}

/** CMake refuses a build folder that was made for another path; a tree may have been moved or copied. */
function forgetMovedTree(buildDir: string): void {
  const cache = join(buildDir, "CMakeCache.txt");
  if (!existsSync(cache)) return;
  const home = /^CMAKE_HOME_DIRECTORY:INTERNAL=(.*)$/m.exec(readFileSync(cache, "utf8"))?.[1];
  if (home !== inTree("kernels")) rmSync(buildDir, { recursive: true, force: true });
}

/** Over names, sizes and times: quick, and any edit changes it. */
function sourcesDigest(): string {
  const hash = createHash("sha256");
  const walk = (dir: string) => {
    for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = join(dir, entry.name);
      if (entry.isDirectory()) {
        walk(path);
      } else {
        const { size, mtimeMs } = statSync(path);
        hash.update(`${path}\n${size}\n${mtimeMs}\n`);
      }
    }
  };
  walk(inTree("kernels"));
  walk(inTree("testdata", "goldens"));
  hash.update(process.env.CXX ?? "");
  return hash.digest("hex");
}

function inTreeCache(prefix: string): string {
  mkdirSync(inTree(".cache"), { recursive: true });
  return inTree(".cache", prefix);
}
