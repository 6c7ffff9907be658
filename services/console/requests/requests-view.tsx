// The requests that ended last in this gateway.
import type { ConsoleRequest, ConsoleRequests } from "../../lib/contracts/console.ts";
import { getJson } from "../api.ts";
import { formatCount, formatSeconds } from "../format.ts";
import { hrefOf } from "../shell/route.ts";
import { Scroller } from "../shell/scroller.tsx";
import { usePoll } from "../use-poll.ts";
import { arrivedAt, Outcome } from "./outcome.tsx";

const everyMs = 2_000;

const ask = (signal: AbortSignal) => getJson<ConsoleRequests>("api/requests", signal);

export function RequestsView() {
  const { value, error } = usePoll(ask, everyMs);
  return (
    <div class="page">
      <div class="page-head">
        <h1>Requests</h1>
      </div>
      {error !== null && <p class="notice">{error.message}</p>}
      {value === null ? (
        <p class="empty">Asking the gateway</p>
      ) : value.requests.length === 0 ? (
        <p class="empty">No request has ended here yet.</p>
      ) : (
        <>
          <p class="summary">Those that ended here last, the latest first. Each has its time line.</p>
          <div class="card">
            <Scroller label="Requests in figures">
              <RequestTable requests={value.requests} />
            </Scroller>
          </div>
        </>
      )}
    </div>
  );
}

function RequestTable({ requests }: { requests: readonly ConsoleRequest[] }) {
  const severalModels = new Set(requests.map(({ model }) => model).filter((model) => model !== null)).size > 1;
  return (
    <table>
      <thead>
        <tr>
          <th scope="col">Arrived</th>
          <th scope="col">Request</th>
          {severalModels && <th scope="col">Model</th>}
          <th scope="col">Outcome</th>
          <th scope="col" class="number">
            Prompt
          </th>
          <th scope="col" class="number">
            Cached
          </th>
          <th scope="col" class="number">
            Answer
          </th>
          <th scope="col" class="number">
            First token
          </th>
          <th scope="col" class="number">
            In all
          </th>
          <th scope="col">Workers</th>
        </tr>
      </thead>
      <tbody>
        {requests.map((one) => (
          <tr key={`${one.requestId} ${one.arrivedAt}`}>
            <td>{arrivedAt(one.arrivedAt)}</td>
            <th scope="row">
              <a class="id" href={hrefOf("requests", one.requestId)} title={one.requestId}>
                {one.requestId}
              </a>
            </th>
            {severalModels && <td>{one.model ?? "–"}</td>}
            <td>
              <Outcome outcome={one.outcome} />
            </td>
            <td class="number">{formatCount(one.promptTokens)}</td>
            <td class="number">{formatCount(one.cachedTokens)}</td>
            <td class="number">{formatCount(one.completionTokens)}</td>
            <td class="number">{one.ttftSeconds === null ? "–" : formatSeconds(one.ttftSeconds)}</td>
            <td class="number">{formatSeconds(one.seconds)}</td>
            <td>{[one.prefillWorkerId, one.decodeWorkerId].filter((id) => id !== null).join(" → ") || "–"}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
