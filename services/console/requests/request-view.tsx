// Where one request's time went: a bar for each phase, a worker's own behind the wait for it.
import { useCallback, useState } from "preact/hooks";
import type { RequestTimeline } from "../../lib/contracts/timeline.ts";
import { getJson } from "../api.ts";
import { formatCount, formatSeconds, plural } from "../format.ts";
import { Choice } from "../shell/choice.tsx";
import { hrefOf } from "../shell/route.ts";
import { Scroller } from "../shell/scroller.tsx";
import { usePoll } from "../use-poll.ts";
import { arrivedAt, Outcome } from "./outcome.tsx";
import { barsOf, type Span, spanSeconds, ticksOf } from "./time-line.ts";

const everyMs = 1_000;

export function RequestView({ requestId }: { requestId: string }) {
  const ask = useCallback(
    (signal: AbortSignal) => getJson<RequestTimeline>(`api/requests/${encodeURIComponent(requestId)}`, signal),
    [requestId],
  );
  const { value, error } = usePoll(ask, everyMs, true);
  return (
    <div class="page">
      <p class="back">
        <a href={hrefOf("requests")}>All requests</a>
      </p>
      <h1 class="id">{requestId}</h1>
      {value !== null && <TimeLine timeline={value} />}
      {value === null && error === null && <p class="empty">Asking the gateway</p>}
      {value === null && error !== null && (
        <p class="empty">
          {error.code === "not_found"
            ? "It has not ended yet, or it is not among the last that this gateway keeps. As soon as it ends here it is shown."
            : error.message}
        </p>
      )}
    </div>
  );
}

function TimeLine({ timeline }: { timeline: RequestTimeline }) {
  const [span, setSpan] = useState<Span>("whole");
  const { ttftSeconds } = timeline;
  const whole = spanSeconds(timeline, span);
  const place = (seconds: number) => `${(100 * seconds) / Math.max(whole, Number.MIN_VALUE)}%`;
  return (
    <>
      <Facts timeline={timeline} />
      <section class="card time-line" aria-labelledby="time-line">
        <div class="page-head">
          <h2 id="time-line">Time line</h2>
          {ttftSeconds !== null && (
            <Choice
              label="Show"
              value={span}
              options={[
                ["whole", "Whole request"],
                ["first-token", "To the first token"],
              ]}
              onChoose={setSpan}
            />
          )}
        </div>
        <Scroller label="Phases in figures">
          <table>
            <thead>
              <tr>
                <th scope="col">Phase</th>
                <th scope="col" class="drawn">
                  <span class="unseen">Drawn</span>
                  <span class="ticks" aria-hidden="true">
                    {ticksOf(whole).map((tick) => (
                      <span key={tick} style={{ left: place(tick) }}>
                        {formatSeconds(tick)}
                      </span>
                    ))}
                  </span>
                </th>
                <th scope="col" class="number">
                  Begins at
                </th>
                <th scope="col" class="number">
                  Takes
                </th>
              </tr>
            </thead>
            <tbody>
              {barsOf(timeline, span).map((bar, i) => (
                <tr key={`${i} ${bar.name}`} class={bar.process}>
                  <th scope="row">
                    {bar.name}
                    {bar.where !== null && <span class="of"> in {bar.where}</span>}
                  </th>
                  <td class="lane">
                    <span class="track" aria-hidden="true">
                      <span class="bar" style={{ left: `${100 * bar.from}%`, width: `max(2px, ${100 * bar.length}%)` }} />
                      {span === "whole" && ttftSeconds !== null && <span class="first-token" style={{ left: place(ttftSeconds) }} />}
                    </span>
                  </td>
                  <td class="number">{formatSeconds(bar.startSeconds)}</td>
                  <td class="number">{formatSeconds(bar.seconds)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </Scroller>
        <p class="hint">
          Each process has a clock of its own: a worker's phases stand in the middle of the wait for them.
          {span === "whole" && ttftSeconds !== null && " The upright line marks the first token."}
        </p>
      </section>
    </>
  );
}

function Facts({ timeline }: { timeline: RequestTimeline }) {
  const { promptTokens, cachedTokens, completionTokens, ttftSeconds, resumes, traceId } = timeline;
  const facts: [name: string, value: string | null][] = [
    ["Arrived", arrivedAt(timeline.arrivedAt)],
    ["Model", timeline.model],
    ["Endpoint", timeline.endpoint],
    ["Prompt", `${plural(promptTokens, "token")}, ${formatCount(cachedTokens)} cached`],
    ["Answer", plural(completionTokens, "token")],
    ["First token", ttftSeconds === null ? "none" : `after ${formatSeconds(ttftSeconds)}`],
    ["In all", formatSeconds(timeline.seconds)],
    ["Prompt by", timeline.prefillWorkerId ?? (timeline.decodeWorkerId === null ? null : "decode itself")],
    ["Decode", timeline.decodeWorkerId],
    ["Moved", resumes === 0 ? null : plural(resumes, "time")],
    ["Trace", traceId],
  ];
  return (
    <dl class="facts">
      <div>
        <dt>Outcome</dt>
        <dd>
          <Outcome outcome={timeline.outcome} />
        </dd>
      </div>
      {facts.flatMap(([name, value]) =>
        value === null
          ? []
          : [
              <div key={name}>
                <dt>{name}</dt>
                <dd>{value}</dd>
              </div>,
            ],
      )}
    </dl>
  );
}
