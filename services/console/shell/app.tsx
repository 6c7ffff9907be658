// The frame around the views: navigation, the state of the system in a line, the colour scheme, and the key where one is asked for.
import { useEffect, useReducer, useRef } from "preact/hooks";
import type { ConsoleOverview } from "../../lib/contracts/console.ts";
import { getJson } from "../api.ts";
import { ChatView } from "../chat/chat-view.tsx";
import { ExpertsView } from "../experts/experts-view.tsx";
import { noHistory, remember } from "../pools/history.ts";
import { PoolsView } from "../pools/pools-view.tsx";
import { RequestView } from "../requests/request-view.tsx";
import { RequestsView } from "../requests/requests-view.tsx";
import { usePoll } from "../use-poll.ts";
import { Navigation } from "./navigation.tsx";
import { useRoute, type View } from "./route.ts";
import { useScheme } from "./scheme.ts";
import { SignIn } from "./sign-in.tsx";

const overviewEveryMs = 1_000;
const titles: Record<View, string> = { chat: "Chat", pools: "Pools", experts: "Experts", requests: "Requests" };

const askOverview = (signal: AbortSignal) => getJson<ConsoleOverview>("api/overview", signal);

export function App() {
  const { view, id } = useRoute();
  const scheme = useScheme();
  const overview = usePoll(askOverview, overviewEveryMs);
  const [history, add] = useReducer(
    (before: typeof noHistory, now: ConsoleOverview) => remember(before, now, Date.now() / 1000),
    noHistory,
  );
  useEffect(() => {
    if (overview.value !== null) add(overview.value);
  }, [overview.value]);

  const main = useRef<HTMLElement>(null);
  const place = id === null ? view : `${view}/${id}`;
  const placeBefore = useRef<string | null>(null);
  useEffect(() => {
    document.title = `${titles[view]} · Pelagic`;
    // Whoever follows a link is where it leads; not at the start, when nobody followed one. The chat gives the focus to its field.
    if (placeBefore.current !== null && placeBefore.current !== place && view !== "chat") main.current?.focus();
    placeBefore.current = place;
  }, [view, place]);

  if (overview.error?.code === "invalid_api_key") return <SignIn onSignedIn={overview.again} />;
  return (
    <div class="frame">
      <button type="button" class="skip" onClick={() => main.current?.focus()}>
        Skip to the content
      </button>
      <Navigation view={view} overview={overview} scheme={scheme} />
      <main ref={main} id="content" class={`content ${view}`} tabIndex={-1} aria-label={titles[view]}>
        {/* Kept while another view is shown: an answer that is being written goes on. */}
        <div hidden={view !== "chat"} class="keep">
          <ChatView overview={overview.value} shown={view === "chat"} />
        </div>
        {view === "pools" && <PoolsView overview={overview.value} history={history} scheme={scheme.shown} />}
        {view === "requests" && id === null && <RequestsView />}
        {view === "requests" && id !== null && <RequestView key={id} requestId={id} />}
        {view === "experts" && <ExpertsView workers={overview.value?.workers ?? null} scheme={scheme.shown} />}
      </main>
    </div>
  );
}
