import { buildNative } from "./native-build.ts";
import { natsServerBinary } from "./nats-binary.ts";
import { createProgress, type Progress, progressMode } from "./stack/progress.ts";

/** Whatever a stack needs and this tree lacks; ./pelagic itself has seen to the npm packages and the TypeScript build. */
export async function prepare(progress: Pick<Progress, "step" | "detail">): Promise<void> {
  const step = (text: string) => progress.step(text);
  const onOutput = (chunk: string) => {
    const position = compilePosition(chunk);
    if (position) progress.detail(`compiled ${position.text}`, position.done);
  };
  await buildNative(step, { onOutput, shown: false });
  await natsServerBinary(step);
}

/** Ninja ([19/76]) and Make ([ 25%]) say how far they are at the start of each line; the last line counts. */
export function compilePosition(output: string): { text: string; done: number } | null {
  const [, text, part, whole = "100"] = [...output.matchAll(/^\[\s*((\d+)(?:\/(\d+)|%))\]/gm)].at(-1) ?? [];
  return text === undefined ? null : { text, done: Number(part) / Math.max(1, Number(whole)) };
}

/** The same for a command whose output is not the preparation: it shows on stderr, and only where something is due. */
export async function prepareFirst(): Promise<void> {
  const progress = createProgress(progressMode({}));
  await prepare(progress);
  progress.end();
}
