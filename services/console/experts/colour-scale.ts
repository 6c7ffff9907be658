// One hue, from the page's own ground to its opposite, even steps for each doubling of the load: how much is told by lightness alone.

type Rgb = [number, number, number];

const stops: Record<"light" | "dark", Rgb[]> = {
  // 0, 1/2, 1, 2, 4 times an equal share.
  light: [
    [240, 244, 246],
    [205, 227, 231],
    [137, 192, 202],
    [38, 128, 146],
    [7, 52, 66],
  ],
  dark: [
    [21, 33, 39],
    [27, 61, 71],
    [40, 107, 122],
    [95, 184, 200],
    [228, 250, 255],
  ],
};

export const scaleMarks: [load: number, words: string][] = [
  [0, "none"],
  [0.5, "½"],
  [1, "equal share"],
  [2, "2×"],
  [4, "4×"],
];

/** CSS colours by load relative to an equal share. */
export function colourScale(scheme: "light" | "dark"): (load: number) => string {
  const colours = stops[scheme];
  return (load) => {
    const place = Math.min(colours.length - 1, Math.max(0, load <= 0.5 ? 2 * load : 2 + Math.log2(load)));
    const below = Math.min(colours.length - 2, Math.floor(place));
    const part = place - below;
    const mixed = (colours[below] as Rgb).map((from, i) => Math.round(from + part * (((colours[below + 1] as Rgb)[i] as number) - from)));
    return `rgb(${mixed.join(", ")})`;
  };
}
