// Layers down, experts across, and how far each expert is from an equal share of its layer's tokens. One canvas: a large model has 15,000 cells.
import { useEffect, useRef, useState } from "preact/hooks";
import { formatCount } from "../format.ts";
import { cssColour } from "../shell/scheme.ts";
import type { LayerLoad } from "../../lib/expert-load/layer-load.ts";
import { colourScale, scaleMarks } from "./colour-scale.ts";

export interface HeatMapProps {
  layers: readonly LayerLoad[];
  tokens: readonly (readonly number[])[];
  firstLayer: number;
  scheme: "light" | "dark";
}

const labelWidth = 56;
const gap = 1;

export function HeatMap({ layers, tokens, firstLayer, scheme }: HeatMapProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [cell, setCell] = useState<{ layer: number; expert: number } | null>(null);
  const experts = layers[0]?.relative.length ?? 0;
  const cellWidth = Math.max(0, (width - labelWidth) / Math.max(1, experts));
  const cellHeight = Math.min(28, Math.max(9, Math.round(420 / Math.max(1, layers.length))));
  const height = layers.length * cellHeight;

  useEffect(() => {
    const element = canvas.current as HTMLCanvasElement;
    const observer = new ResizeObserver(() => setWidth(element.parentElement?.clientWidth ?? 0));
    observer.observe(element.parentElement as HTMLElement);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    const element = canvas.current as HTMLCanvasElement;
    const ratio = devicePixelRatio;
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
    const context = element.getContext("2d") as CanvasRenderingContext2D;
    context.scale(ratio, ratio);
    const colour = colourScale(scheme);
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    const ink = cssColour("--ink-soft");
    // Thin cells touch: a gap would be all there is to see.
    const between = cellWidth > 6 ? gap : 0;
    const everyLabel = Math.ceil(13 / cellHeight);
    layers.forEach(({ relative }, layer) => {
      if (layer % everyLabel === 0) {
        context.fillStyle = ink;
        context.fillText(`layer ${firstLayer + layer}`, 0, (layer + 0.5) * cellHeight);
      }
      relative.forEach((load, expert) => {
        context.fillStyle = colour(load);
        const x = labelWidth + expert * cellWidth;
        context.fillRect(x, layer * cellHeight, cellWidth - between, cellHeight - (cellHeight > 6 ? gap : 0));
      });
    });
    if (cell !== null) {
      context.strokeStyle = cssColour("--ink");
      context.lineWidth = 2;
      context.strokeRect(labelWidth + cell.expert * cellWidth, cell.layer * cellHeight, cellWidth - between, cellHeight - gap);
    }
  }, [width, height, layers, firstLayer, scheme, cell, cellWidth, cellHeight]);

  const pointAt = (event: PointerEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const expert = Math.floor((event.clientX - box.left - labelWidth) / cellWidth);
    const layer = Math.floor((event.clientY - box.top) / cellHeight);
    const inside = expert >= 0 && expert < experts && layer >= 0 && layer < layers.length;
    setCell(inside ? { layer, expert } : null);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const step = steps[event.key];
    if (event.key === "Escape") setCell(null);
    if (step === undefined) return;
    event.preventDefault();
    const from = cell ?? { layer: 0, expert: step[1] > 0 ? -1 : 0 };
    setCell({ layer: clamp(from.layer + step[0], layers.length), expert: clamp(from.expert + step[1], experts) });
  };
  return (
    <div class="heat-map">
      <div class="heat-canvas">
        <div
          role="application"
          aria-roledescription="heat map"
          aria-label={`Load of ${experts} experts in ${layers.length} layers; the arrow keys walk over them`}
          aria-describedby="heat-cell"
          // biome-ignore lint/a11y/noNoninteractiveTabindex: the arrow keys walk over its cells.
          tabIndex={0}
          class="heat-keys"
          onPointerMove={pointAt}
          onPointerLeave={() => setCell(null)}
          onKeyDown={onKeyDown}
          onBlur={() => setCell(null)}
        >
          <canvas ref={canvas} style={{ width: `${width}px`, height: `${height}px` }} />
        </div>
      </div>
      <div class="heat-foot">
        <p id="heat-cell" aria-live="polite">
          {cell === null ? "Point at an expert, or walk with the arrow keys." : cellWords(cell, layers, tokens, firstLayer)}
        </p>
        <Scale scheme={scheme} />
      </div>
    </div>
  );
}

const steps: Record<string, [layers: number, experts: number]> = {
  ArrowUp: [-1, 0],
  ArrowDown: [1, 0],
  ArrowLeft: [0, -1],
  ArrowRight: [0, 1],
};

function clamp(value: number, length: number): number {
  return Math.min(length - 1, Math.max(0, value));
}

function cellWords(
  cell: { layer: number; expert: number },
  layers: readonly LayerLoad[],
  tokens: HeatMapProps["tokens"],
  firstLayer: number,
): string {
  const load = layers[cell.layer]?.relative[cell.expert] ?? 0;
  const count = tokens[cell.layer]?.[cell.expert] ?? 0;
  return `Layer ${firstLayer + cell.layer}, expert ${cell.expert}: ${formatCount(count)} tokens, ${load.toFixed(2)} times an equal share`;
}

function Scale({ scheme }: { scheme: "light" | "dark" }) {
  const colour = colourScale(scheme);
  return (
    <div class="heat-scale" role="img" aria-label="Colours from no tokens to four times an equal share and more">
      {scaleMarks.map(([load, words]) => (
        <span key={words}>
          <span class="swatch" style={{ background: colour(load) }} />
          {words}
        </span>
      ))}
    </div>
  );
}
