// Which experts the tokens went to, by layer, as the workers count them.
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import type { ConsoleExperts, ConsoleWorker } from "../../lib/contracts/console.ts";
import { getJson } from "../api.ts";
import { formatCount, formatSeconds, plural } from "../format.ts";
import { Choice } from "../shell/choice.tsx";
import { usePoll } from "../use-poll.ts";
import { addTokens, type ExpertSnapshot, layerLoad, rememberExperts, tokensOf } from "./expert-load.ts";
import { HeatMap } from "./heat-map.tsx";
import { LayerTable } from "./layer-table.tsx";

const everyMs = 2_000;
/** Each of them answers with all its counts. */
const mostWorkers = 16;

/** Before a model's name, what no worker's id begins with. */
const allOf = "of ";

type Span = "start" | "minute";

export function ExpertsView({ workers, scheme }: { workers: readonly ConsoleWorker[] | null; scheme: "light" | "dark" }) {
  const [span, setSpan] = useState<Span>("start");
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
      Promise.all(asked === "" ? [] : asked.split(",").map((id) => getJson<ConsoleExperts>(`api/workers/${id}/experts`, signal))),
    [asked],
  );
  const { value, error } = usePoll(ask, everyMs);
  const [kept, setKept] = useState<Record<string, readonly ExpertSnapshot[]>>({});
  useEffect(() => {
    if (value === null) return;
    const atSeconds = performance.now() / 1000;
    setKept((before) =>
      Object.fromEntries(value.map((one) => [one.workerId, rememberExperts(before[one.workerId] ?? [], one, atSeconds)])),
    );
  }, [value]);

  const shown = useMemo(() => {
    const spans = Object.values(kept).flatMap((snapshots) => tokensOf(snapshots, span) ?? []);
    const tokens = addTokens(spans.map(({ tokens }) => tokens));
    return tokens === null ? null : { tokens, layers: tokens.map(layerLoad), seconds: spans[0]?.seconds ?? null };
  }, [kept, span]);
  const firstLayer = value?.[0]?.firstLayer ?? 0;
  const reported = value?.some(({ tokens }) => tokens !== null) ?? false;
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
              ["start", "Since the start"],
              ["minute", "Last minute"],
            ]}
            onChoose={setSpan}
          />
        </div>
      </div>
      {error !== null && <p class="notice">{error.message}</p>}
      {shown !== null ? (
        <>
          <p class="summary">{summaryOf(shown.layers, shown.seconds, value?.[0]?.expertsPerToken ?? 0)}</p>
          <section class="card" aria-label="Heat map">
            <HeatMap {...shown} firstLayer={firstLayer} scheme={scheme} />
          </section>
          <LayerTable layers={shown.layers} firstLayer={firstLayer} />
        </>
      ) : (
        <p class="empty">{emptyWords(value, reported, span)}</p>
      )}
    </div>
  );
}

function emptyWords(value: ConsoleExperts[] | null, reported: boolean, span: Span): string {
  if (value === null) return "Asking the workers";
  if (value.length === 0) return "No worker has reported.";
  if (!reported) return "Not reported: these workers count no tokens by expert, or the model has none.";
  return span === "minute" ? "Counting: there is something to see in a few seconds." : "Asking the workers";
}

function summaryOf(layers: ReturnType<typeof layerLoad>[], seconds: number | null, perToken: number): string {
  const experts = layers[0]?.relative.length ?? 0;
  const shape = `${plural(layers.length, "layer")} of ${formatCount(experts)} experts, ${formatCount(perToken)} for each token`;
  const busy = layers.filter(({ tokens }) => tokens > 0);
  const when = seconds === null ? "since the workers began" : `in ${formatSeconds(seconds)}`;
  if (busy.length === 0) return `${shape}. No token came ${when}.`;
  const mean = busy.reduce((sum, { highest }) => sum + highest, 0) / busy.length;
  return `${shape}. The busiest expert of a layer got ${mean.toFixed(2)} times an equal share ${when}, on average over the layers.`;
}
