// Values over time: uPlot draws, the legend below says the same in words and figures. The arrow keys walk through time as the pointer does.
import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { cssColour } from "../shell/scheme.ts";

export interface Series {
  name: string;
  /** A custom property of the style sheet. */
  colour: string;
  values: readonly (number | null)[];
}

export interface ChartProps {
  title: string;
  /** Seconds since 1970, ascending. */
  times: readonly number[];
  series: readonly Series[];
  /** Each series stands on those before it. */
  stacked?: boolean;
  format: (value: number) => string;
  scheme: "light" | "dark";
}

const height = 150;
/** What is drawn: the last minutes, or as long as the page has looked. */
const mostSeconds = 300;
const leastSeconds = 60;

export function Chart(props: ChartProps) {
  const { title, times, series, format } = props;
  const holder = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  /** Index of the time that is pointed at. */
  const [at, setAt] = useState<number | null>(null);
  const latest = useRef(props);
  latest.current = props;

  const look = series.map(({ name, colour }) => `${name} ${colour}`).join();
  useEffect(() => {
    const element = holder.current as HTMLDivElement;
    const made = new uPlot(optionsOf(latest, element.clientWidth, setAt), dataOf(latest.current), element);
    plot.current = made;
    const observer = new ResizeObserver(() => made.setSize({ width: element.clientWidth, height }));
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [props.scheme, props.stacked, look]);
  useEffect(() => plot.current?.setData(dataOf(props)), [props]);

  const last = times.length - 1;
  const index = at === null || at > last ? last : at;
  const when = at === null || at >= last ? "now" : clockTime(times[at] as number);
  const values = series.map(({ name, values }) => [name, wordsOf(values[index] ?? null, format)] as const);
  const move = (to: number | null) => {
    setAt(to);
    const drawn = plot.current;
    if (drawn === null) return;
    const left = to === null ? -10 : drawn.valToPos(times[to] as number, "x");
    drawn.setCursor({ left, top: to === null ? -10 : height / 2 }, false);
  };
  return (
    <figure class="card chart">
      <figcaption>{title}</figcaption>
      <div
        class="plot"
        ref={holder}
        tabIndex={0}
        role="slider"
        aria-label={`${title}, over time`}
        aria-valuemin={0}
        aria-valuemax={Math.max(0, last)}
        aria-valuenow={Math.max(0, index)}
        aria-valuetext={`${when}: ${values.map(([name, value]) => `${name} ${value}`).join(", ")}`}
        onKeyDown={(event) => {
          const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -times.length, End: times.length }[event.key];
          if (step === undefined || last < 0) return;
          event.preventDefault();
          move(Math.min(last, Math.max(0, index + step)));
        }}
        onBlur={() => move(null)}
      />
      <dl class="legend">
        {series.map(({ name, colour }, i) => (
          <div key={name}>
            <dt>
              <span class="swatch" style={{ background: `var(${colour})` }} aria-hidden="true" />
              {name}
            </dt>
            <dd>{values[i]?.[1]}</dd>
          </div>
        ))}
        <div class="when">
          <dt class="unseen">at</dt>
          <dd>{when}</dd>
        </div>
      </dl>
    </figure>
  );
}

function wordsOf(value: number | null, format: (value: number) => string): string {
  return value === null ? "not known" : format(value);
}

function clockTime(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

function dataOf({ times, series, stacked }: ChartProps): uPlot.AlignedData {
  if (!stacked) return [times as number[], ...series.map(({ values }) => values as (number | null)[])];
  const sums = new Array<number>(times.length).fill(0);
  return [
    times as number[],
    ...series.map(({ values }) =>
      values.map((value, i) => {
        if (value === null) return null;
        sums[i] = (sums[i] as number) + value;
        return sums[i] as number;
      }),
    ),
  ];
}

/** `latest` outlives a render: the plot formats with what is shown now. */
function optionsOf(latest: { current: ChartProps }, width: number, onCursor: (at: number | null) => void): uPlot.Options {
  const { series, stacked } = latest.current;
  const ink = cssColour("--ink-soft");
  const line = cssColour("--line");
  const axis = { stroke: ink, font: "11px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: line, width: 1 } };
  return {
    width,
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false, setScale: false } },
    scales: {
      x: { range: (_plot, min, max) => [Math.max(max - mostSeconds, Math.min(min, max - leastSeconds)), max] },
      // From zero, and never a scale of nothing.
      y: { range: (_plot, _min, max) => [0, Math.max(1, (max ?? 0) * 1.08)] },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        space: 70,
        size: 24,
        gap: 6,
        values: (_plot, times) => times.map(clockTime),
      },
      { ...axis, size: 62, gap: 8, space: 30, values: (_plot, values) => values.map((value) => latest.current.format(value)) },
    ],
    series: [
      {},
      ...series.map(({ name, colour }) => ({
        label: name,
        stroke: cssColour(colour),
        width: 1.5,
        points: { show: false },
        ...(stacked ? {} : { fill: faint(cssColour(colour), 0.08) }),
      })),
    ],
    ...(stacked
      ? {
          // Each band lies between its series and the one below it; the lowest reaches the ground.
          bands: series
            .slice(1)
            .map(({ colour }, i) => ({ series: [i + 2, i + 1] as [number, number], fill: faint(cssColour(colour), 0.5) })),
        }
      : {}),
    hooks: {
      init: [
        (plot) => {
          // The figures are in the legend.
          plot.root.setAttribute("aria-hidden", "true");
        },
      ],
      setCursor: [(plot) => onCursor(plot.cursor.idx ?? null)],
    },
  };
}

/** A computed colour, `rgb(...)`, with an opacity. */
function faint(colour: string, opacity: number): string {
  const channels = /^rgb\(([^)]*)\)$/.exec(colour)?.[1];
  return channels === undefined ? colour : `rgba(${channels}, ${opacity})`;
}
