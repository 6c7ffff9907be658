import { expect, test } from "vitest";
import { cardOf } from "./cards.ts";

test("workers get cards in turn, and what there is where it is one or not said", () => {
  expect([0, 1, 2].map((nth) => cardOf("0, GPU-5f,", nth).CUDA_VISIBLE_DEVICES)).toEqual(["0", "GPU-5f", "0"]);
  for (const visible of [undefined, "", "1", " , "]) expect(cardOf(visible, 1)).toEqual({});
});
