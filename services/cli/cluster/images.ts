// The images that the node needs: the product's from its own Dockerfiles, and three of one static program each.
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CliError } from "../cli-error.ts";
import { natsServerBinary } from "../nats-binary.ts";
import { findOnPath } from "../run-command.ts";
import { inTree } from "../tree.ts";
import { ensureBases } from "./bases.ts";
import { binaryPath } from "./binaries.ts";
import { buildImage, imageExists, tidyStore, writeArchive } from "./buildah.ts";
import { archiveDir, cacheDir, versions } from "./layout.ts";
import { must } from "./shell.ts";

export interface ClusterImage {
  tag: string;
  archive: string;
  bytes: number;
  /** False: what was there is still right. */
  built: boolean;
  seconds: number;
}

const { version } = JSON.parse(readFileSync(inTree("package.json"), "utf8")) as { version: string };
export const pelagicTag = `localhost/pelagic:${version}`;
export const cudaTag = `localhost/pelagic:${version}-cuda`;
export const pauseTag = "localhost/pause:1";
export const corednsTag = `localhost/coredns:${versions.coredns}`;
/** Any name and tag will do for a chart; the server is the one that ./pelagic up runs. */
export const natsTag = "localhost/nats:2.15.1";

/** A pod's first process holds its namespaces and collects what others left. */
const pauseProgram = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
`;

export async function ensureImages(options: { cuda?: boolean }, progress: Progress): Promise<ClusterImage[]> {
  mkdirSync(archiveDir, { recursive: true });
  try {
    const images = [
      await ensureImage(pauseTag, digestOf([pauseProgram]), progress, () => oneProgram(pauseTag, "pause", pauseBinary)),
      await ensureImage(corednsTag, digestOf([corednsTag]), progress, () =>
        oneProgram(corednsTag, "coredns", async () => binaryPath("coredns") as string),
      ),
      await ensureImage(natsTag, digestOf([natsTag]), progress, () =>
        oneProgram(natsTag, "nats-server", () => natsServerBinary((text) => progress.step(text))),
      ),
      await ensureImage(
        pelagicTag,
        sourcesDigest(["deploy", "kernels", "loadtest", "models/plankton", "operators", "services"]),
        progress,
        () => productImage(pelagicTag, "Dockerfile", progress),
      ),
    ];
    if (options.cuda)
      images.push(
        await ensureImage(cudaTag, sourcesDigest(["deploy", "kernels", "models/plankton", "operators", "services"]), progress, () =>
          productImage(cudaTag, "Dockerfile.cuda", progress),
        ),
      );
    return images;
  } finally {
    await tidyStore();
  }
}

export interface Progress {
  step(text: string): void;
  detail(text: string): void;
}

async function ensureImage(tag: string, digest: string, progress: Progress, build: () => Promise<void>): Promise<ClusterImage> {
  const archive = archiveOf(tag);
  const stamp = `${archive}.built-from`;
  const begun = performance.now();
  const built = !existsSync(archive) || !existsSync(stamp) || readFileSync(stamp, "utf8") !== digest;
  if (built) {
    progress.step(`making the image ${tag}`);
    await build();
    await writeArchive(tag, archive);
    writeFileSync(stamp, digest);
  }
  return { tag, archive, bytes: statSync(archive).size, built, seconds: Math.round((performance.now() - begun) / 100) / 10 };
}

export function archiveOf(tag: string): string {
  return join(archiveDir, `${tag.replace(/^localhost\//, "").replace(":", "-")}.tar`);
}

async function productImage(tag: string, dockerfile: string, progress: Progress): Promise<void> {
  const bases = await ensureBases((text) => progress.step(text));
  if (dockerfile === "Dockerfile.cuda" && !(await imageExists(pelagicTag)))
    throw new CliError(`${pelagicTag} is missing, on which ${tag} is built`);
  const args = { BUILD_IMAGE: bases.build, RUNTIME_IMAGE: bases.runtime, PELAGIC_IMAGE: pelagicTag };
  const wanted = new Set(
    [...readFileSync(inTree("deploy", "images", dockerfile), "utf8").matchAll(/^ARG (\w+)/gm)].map(([, name]) => name),
  );
  await buildImage(
    {
      tag,
      context: inTree(),
      dockerfile: inTree("deploy", "images", dockerfile),
      args: Object.fromEntries(Object.entries(args).filter(([name]) => wanted.has(name))),
    },
    (chunk) => {
      const position = /^(STEP \d+\/\d+|\[\d+\/\d+\])/m.exec(chunk)?.[1];
      if (position) progress.detail(`${tag}: ${position}`);
    },
  );
}

async function oneProgram(tag: string, name: string, binary: () => Promise<string>): Promise<void> {
  const context = mkdtempSync(join(cacheDir, "image-"));
  try {
    copyFileSync(await binary(), join(context, name));
    const dockerfile = join(context, "Dockerfile");
    writeFileSync(
      dockerfile,
      `FROM scratch\nCOPY --chmod=0755 ${name} /usr/local/bin/${name}\nENV PATH=/usr/local/bin\nUSER 65532:65532\nENTRYPOINT ["/usr/local/bin/${name}"]\n`,
    );
    await buildImage({ tag, context, dockerfile });
  } finally {
    rmSync(context, { recursive: true, force: true });
  }
}

async function pauseBinary(): Promise<string> {
  const work = join(cacheDir, "pause");
  mkdirSync(work, { recursive: true });
  writeFileSync(join(work, "main.go"), pauseProgram);
  const go = findOnPath("go");
  if (go === undefined) throw new CliError("Go is missing: install Go 1.26 or later (https://go.dev/dl)");
  const path = join(work, "pause");
  await must("building pause", go, ["build", "-ldflags", "-s -w", "-o", path, "main.go"], {
    cwd: work,
    env: { CGO_ENABLED: "0", GOFLAGS: "" },
    timeoutMs: 600_000,
  });
  return path;
}

function digestOf(parts: string[]): string {
  return createHash("sha256").update(parts.join("\n")).digest("hex");
}

/** Over names, sizes and times of what the image is made from: quick, and any edit changes it. */
function sourcesDigest(folders: string[]): string {
  const parts: string[] = [];
  const add = (path: string) => {
    const { size, mtimeMs } = statSync(path);
    parts.push(`${path} ${size} ${mtimeMs}`);
  };
  const walk = (dir: string) => {
    for (const entry of readdirSync(dir, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = join(dir, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (!entry.name.endsWith(".test.ts") && !entry.name.endsWith(".md")) add(path);
    }
  };
  for (const folder of folders) if (existsSync(inTree(folder))) walk(inTree(folder));
  for (const file of ["package.json", "package-lock.json", "tsconfig.json", "tsconfig.build.json", ".dockerignore"]) add(inTree(file));
  return digestOf([process.versions.node, ...parts]);
}
