import { buildNative } from "./native-build.ts";
import { natsServerBinary } from "./nats-binary.ts";

/** Whatever a stack needs and this tree lacks; ./pelagic itself has seen to the npm packages and the TypeScript build. */
export async function prepare(progress: (text: string) => void): Promise<void> {
  await buildNative(progress);
  await natsServerBinary(progress);
}
