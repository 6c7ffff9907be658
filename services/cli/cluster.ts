// ./pelagic cluster: a real Kubernetes node on this machine with the product's own images in it, for trials and for the tests.
import { existsSync } from "node:fs";
import type { Command } from "commander";
import { CliError } from "./cli-error.ts";
import { buildBinaries, missingBinaries } from "./cluster/binaries.ts";
import { type ClusterImage, ensureImages } from "./cluster/images.ts";
import { type ClusterInstance, readInstance, stateOf } from "./cluster/instance.ts";
import { binDir, kubeconfigFile, stateDir } from "./cluster/layout.ts";
import { withLock } from "./cluster/lock.ts";
import { machineFacts, whyNoCluster } from "./cluster/machine.ts";
import { installPackages } from "./cluster/packages.ts";
import { asAdmin, importImages, kubectl, startNode } from "./cluster/start.ts";
import { stopNode, whatIsLeft } from "./cluster/stop.ts";
import { must } from "./cluster/shell.ts";
import { createProgress, progressMode, type Progress } from "./stack/progress.ts";
import { isRunning } from "./stack/process-table.ts";
import { formatTable } from "./terminal.ts";
import { treeRoot } from "./tree.ts";

/** For the caller's shell: helm, and kubectl where the machine has none, are among what was built. */
const toUse = `export KUBECONFIG=${kubeconfigFile} PATH=$PATH:${binDir}`;

interface Options {
  json?: boolean;
  cuda?: boolean;
}

export function register(program: Command): void {
  const cluster = program
    .command("cluster")
    .description("a real Kubernetes node on this machine, with the images of this tree (Linux, root; nothing is left when it is down)");
  cluster
    .command("up")
    .description("build what is missing, make the images, start the node, and say where its kubeconfig is")
    .option("--cuda", "the image with the CUDA backend, too (its compiler takes 700 MB)")
    .option("--json", "one JSON event a line on stdout")
    .addHelpText(
      "after",
      `\nThe first time it builds Kubernetes with Go, which takes minutes; later starts take seconds.\n\nExample:\n  sudo ./pelagic cluster up\n  ${toUse}`,
    )
    .action(up);
  cluster
    .command("images")
    .description("build what is missing and make the images, without starting anything; a node that runs gets them")
    .option("--cuda", "the image with the CUDA backend, too")
    .option("--json", "one JSON event a line on stdout")
    .action(images);
  cluster.command("status").description("what runs, and its nodes and pods").option("--json", "as JSON").action(status);
  cluster
    .command("down")
    .description("end the node and take away all that it made; what was built stays in .cache/cluster")
    .option("--json", "as JSON")
    .action(down);
}

async function up(options: Options): Promise<void> {
  const progress = createProgress(progressMode(options));
  const begun = performance.now();
  await checkMachine();
  const ready = await withLock(
    (text: string) => progress.step(text),
    async () => {
      const made = await makeImages(options, progress);
      const instance = readInstance();
      const state = checkedState(instance);
      if (state === "running") {
        await importImages(made.filter(({ built }) => built).map(({ archive }) => archive));
        return { made, started: false };
      }
      if (state === "broken") {
        progress.step("clearing a node that did not end well");
        await stopNode(instance);
      }
      await startNode(
        made.map(({ archive }) => archive),
        (text: string) => progress.step(text),
      );
      return { made, started: true };
    },
  );
  progress.end();
  const report = { event: "up", kubeconfig: kubeconfigFile, started: ready.started, seconds: secondsSince(begun), images: ready.made };
  process.stdout.write(
    options.json
      ? `${JSON.stringify(report)}\n`
      : `${ready.started ? `up after ${report.seconds} s` : "it is up already"}: ${toUse}\nimages: ${ready.made.map(({ tag }) => tag).join(", ")}\n./pelagic cluster down ends it.\n`,
  );
}

async function images(options: Options): Promise<void> {
  const progress = createProgress(progressMode(options));
  await checkMachine();
  const made = await withLock(
    (text: string) => progress.step(text),
    async () => {
      const all = await makeImages(options, progress);
      const instance = readInstance();
      if (instance?.tree === treeRoot && stateOf(instance) === "running") await importImages(all.map(({ archive }) => archive));
      return all;
    },
  );
  progress.end();
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ event: "images", images: made })}\n`
      : `${formatTable(
          ["image", "MB", "", "archive"],
          made.map(({ tag, bytes, built, seconds, archive }) => [
            tag,
            Math.round(bytes / 1e6),
            built ? `made in ${seconds} s` : "as it was",
            archive,
          ]),
        )}\n`,
  );
}

async function status(options: Options): Promise<void> {
  if (existsSync(stateDir) && !isRoot()) throw new CliError("a node of this machine is root's to look into: run it with sudo");
  const instance = readInstance();
  const state = stateOf(instance);
  if (options.json) {
    const processes = (instance?.processes ?? []).map((one) => ({ name: one.name, pid: one.pid, running: isRunning(one) }));
    process.stdout.write(
      `${JSON.stringify({ state, tree: instance?.tree ?? null, kubeconfig: state === "running" ? kubeconfigFile : null, processes })}\n`,
    );
    return;
  }
  if (instance === undefined || state !== "running") {
    process.stdout.write(
      `${{ none: "no node runs", busy: "a node is being started or stopped", broken: "a node did not end well: ./pelagic cluster down clears it", running: "" }[state]}\n`,
    );
    return;
  }
  process.stdout.write(`up since ${instance.startedAt}, of ${instance.tree}\nKUBECONFIG=${kubeconfigFile}\n\n`);
  process.stdout.write(await must("kubectl", kubectl(), [...asAdmin, "get", "pods", "--all-namespaces", "-o", "wide"]));
}

async function down(options: Options): Promise<void> {
  const instance = readInstance();
  const anything = isRoot() ? whatIsLeft().length > 0 : existsSync(stateDir);
  if (anything && !isRoot()) throw new CliError("a node of this machine is root's to end: run it with sudo");
  const begun = performance.now();
  if (anything) {
    if (stateOf(instance) === "busy") throw new CliError(`process ${instance?.worker?.pid} is just starting it: end that first, or wait`);
    await stopNode(instance);
  }
  if (options.json) process.stdout.write(`${JSON.stringify({ stopped: anything, seconds: secondsSince(begun) })}\n`);
  else process.stdout.write(anything ? `ended after ${secondsSince(begun)} s, and nothing is left\n` : "no node runs\n");
}

async function checkMachine(): Promise<void> {
  const reasons = whyNoCluster(await machineFacts(missingBinaries().map(({ name }) => name)));
  if (reasons.length > 0) throw new CliError(`no node can run here: ${reasons.join("; ")}`);
}

async function makeImages(options: Options, progress: Progress): Promise<ClusterImage[]> {
  await installPackages((text: string) => progress.step(text));
  await buildBinaries(missingBinaries(), (text: string) => progress.step(text));
  return await ensureImages(options, progress);
}

/** Another tree's node is not ours to use or to end by a start. */
function checkedState(instance: ClusterInstance | undefined): "none" | "running" | "broken" {
  const state = stateOf(instance);
  if (state === "busy") throw new CliError(`process ${instance?.worker?.pid} is just starting the machine's node (of ${instance?.tree})`);
  if (state === "running" && instance?.tree !== treeRoot)
    throw new CliError(`the machine's one node runs for ${instance?.tree}: ./pelagic cluster down ends it, there or here`);
  return state === "none" && whatIsLeft().length > 0 ? "broken" : state;
}

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

function secondsSince(begun: number): number {
  return Math.round((performance.now() - begun) / 100) / 10;
}
