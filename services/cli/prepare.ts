import { buildNative } from "./native-build.ts";
import { natsServerBinary } from "./nats-binary.ts";
import { createProgress, type Progress, progressMode } from "./stack/progress.ts";

/** Whatever a stack needs and this tree lacks; ./pelagic itself has seen to the npm packages and the TypeScript build. */
export async function prepare(progress: Pick<Progress, "step" | "detail">): Promise<void> {
  const step = (text: string) => progress.step(text);
  const onOutput = (chunk: string) => {
    // Ninja and Make say how far they are at the start of each line.
    const position = /^\[\s*(\d+(?:\/\d+|%))\]/m.exec(chunk)?.[1];
    if (position) progress.detail(`compiled ${position}`);
  };
  await buildNative(step, { onOutput, shown: false });
  await natsServerBinary(step);
}

/** The same for a command whose output is not the preparation: it shows on stderr, and only where something is due. */
export async function prepareFirst(): Promise<void> {
  const progress = createProgress(progressMode({}));
  await prepare(progress);
  progress.end();
}
