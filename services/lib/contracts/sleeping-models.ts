// What the operator says on its admin port (GET /models) to gateways: models that may have no worker because nobody asked for long, and get one when
// somebody does.
import { z } from "zod";

export const SleepingModels = z.object({ models: z.array(z.object({ name: z.string().min(1).max(256) })).max(10_000) });
export type SleepingModels = z.output<typeof SleepingModels>;
