import { expect, it } from "vitest";
import { z } from "zod";
import { inTree } from "../../cli/tree.ts";
import { loadOptions, workerFields } from "./worker-config.ts";

// Bytes of a cached row of 512 latents and 64 rotated numbers: as kv_cache_test.cpp has them.
it.each([
  ["float32", 2304],
  ["bfloat16", 1152],
  ["fp8", 656],
])("fills the memory that it is given with blocks of %s latents", async (kvDtype, rowBytes) => {
  const config = z.object(workerFields).parse({ workerId: "w", model: inTree("models", "plankton"), kvDtype, kvMemoryMib: 64 });
  const blockBytes = 5 * 64 * rowBytes;
  expect((await loadOptions(config)).kvBlocks).toBe(Math.floor((64 * 1024 * 1024) / blockBytes));
});
