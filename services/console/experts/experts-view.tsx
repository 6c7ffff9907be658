// Which experts the tokens went to, by layer, as the workers count them.
import { useCallback, useMemo, useState } from "preact/hooks";
import type { ConsoleExperts, ConsoleWorker } from "../../lib/contracts/console.ts";
import { getJson } from "../api.ts";
import { addTokens, type LayerLoad, layerLoad } from "../../lib/expert-load/layer-load.ts";
import { formatCount, plural } from "../format.ts";
import { Choice } from "../shell/choice.tsx";
import { usePoll } from "../use-poll.ts";
import { HeatMap } from "./heat-map.tsx";
import { LayerTable } from "./layer-table.tsx";

const everyMs = 2_000;
/** Each of them answers with all its counts. */
const mostWorkers = 16;

/** Before a model's name, what no worker's id begins with. */
const allOf = "of ";

type Span = ConsoleExperts["span"];

export function ExpertsView({ workers, scheme }: { workers: readonly ConsoleWorker[] | null; scheme: "light" | "dark" }) {
  const [span, setSpan] = useState<Span>("late");
  const [chosen, setChosen] = useState("");
  const heard = (workers ?? []).filter(({ state }) => state !== "silent");
  // Tokens of different models do not add up.
  const models = [...new Set(heard.map(({ modelName }) => modelName))];
  const all = models.map((name) => allOf + name);
  const ids = heard.map(({ workerId }) => workerId);
  const selected = all.includes(chosen) || ids.includes(chosen) ? chosen : (all[0] ?? "");
  const asked = heard
    .filter(({ workerId, modelName }) => selected === workerId || selected === allOf + modelName)
    .slice(0, mostWorkers)
    .map(({ workerId }) => workerId)
    .join();
  const ask = useCallback(
    (signal: AbortSignal) =>
      Promise.all(asked === "" ? [] : asked.split(",").map((id) => getJson<ConsoleExperts>(`api/workers/${id}/experts/${span}`, signal))),
    [asked, span],
  );
  const { value, error } = usePoll(ask, everyMs);
  const shown = useMemo(() => {
    const tokens = addTokens((value ?? []).flatMap((one) => (one.tokens === null ? [] : [one.tokens])));
    return tokens === null ? null : { tokens, layers: tokens.map(layerLoad) };
  }, [value]);
  // One rank of a group speaks for all.
  const balancedness = value?.find((one) => one.balancedness !== null)?.balancedness ?? null;
  const firstLayer = value?.[0]?.firstLayer ?? 0;
  return (
    <div class="page">
      <div class="page-head">
        <h1>Experts</h1>
        <div class="controls">
          <label class="select">
            <span class="unseen">Workers</span>
            <select value={selected} onChange={({ currentTarget }) => setChosen(currentTarget.value)}>
              {models.map((name) => (
                <option key={name} value={allOf + name}>
                  {heard.filter(({ modelName }) => modelName === name).length > mostWorkers
                    ? `The first ${mostWorkers} workers`
                    : "All workers"}
                  {models.length > 1 && ` of ${name}`}
                </option>
              ))}
              {ids.map((id) => (
                <option key={id} value={id}>
                  {id}
                </option>
              ))}
            </select>
          </label>
          <Choice
            label="Tokens of"
            value={span}
            options={[
              ["late", "Of late"],
              ["start", "Since the start"],
            ]}
            onChoose={setSpan}
          />
        </div>
      </div>
      {error !== null && <p class="notice">{error.message}</p>}
      {shown !== null ? (
        <>
          <p class="summary">{summaryOf(shown.layers, span, value?.[0]?.expertsPerToken ?? 0, balancedness)}</p>
          <section class="card" aria-label="Heat map">
            <HeatMap {...shown} firstLayer={firstLayer} scheme={scheme} />
          </section>
          <LayerTable layers={shown.layers} firstLayer={firstLayer} balancedness={balancedness} />
        </>
      ) : (
        <p class="empty">{emptyWords(value)}</p>
      )}
    </div>
  );
}

function emptyWords(value: ConsoleExperts[] | null): string {
  if (value === null) return "Asking the workers";
  if (value.length === 0) return "No worker has reported.";
  return "Not reported: these workers count no tokens by expert, or the model has none.";
}

function summaryOf(layers: readonly LayerLoad[], span: Span, perToken: number, balancedness: readonly number[] | null): string {
  const experts = layers[0]?.relative.length ?? 0;
  const shape = `${plural(layers.length, "layer")} of ${formatCount(experts)} experts, ${formatCount(perToken)} for each token`;
  const busy = layers.filter(({ tokens }) => tokens > 0);
  const when = span === "start" ? "since the workers began" : "of late";
  if (busy.length === 0) return `${shape}. No token came ${when}.`;
  const highest = busy.map((layer) => layer.highest);
  const words = [
    `${shape}.`,
    `The busiest expert of a layer got ${mean(highest).toFixed(2)} times an equal share ${when}, on average over the layers.`,
  ];
  if (balancedness !== null) words.push(`Balancedness of the ranks for the tokens of late: ${mean(balancedness).toFixed(2)}.`);
  return words.join(" ");
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
