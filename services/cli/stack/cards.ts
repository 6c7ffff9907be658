// Which GPU a worker of the stack gets, where there are several.

/** Of CUDA_VISIBLE_DEVICES, whose cards are dealt out to the workers of each role in turn; a worker computes on one. */
export function cardOf(visible: string | undefined, nth: number): Record<string, string> {
  const cards = (visible ?? "").split(",").filter((card) => card.trim() !== "");
  return cards.length < 2 ? {} : { CUDA_VISIBLE_DEVICES: (cards[nth % cards.length] as string).trim() };
}
