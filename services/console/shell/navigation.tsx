import type { ConsoleOverview } from "../../lib/contracts/console.ts";
import { plural } from "../format.ts";
import type { Polled } from "../use-poll.ts";
import { icons } from "./icons.tsx";
import { hrefOf, type View, views } from "./route.ts";
import { type Scheme, schemes, type useScheme } from "./scheme.ts";

const names: Record<View, string> = { chat: "Chat", pools: "Pools", experts: "Experts", requests: "Requests" };
const schemeNames: Record<Scheme, string> = { auto: "as the system has it", light: "light", dark: "dark" };

export function Navigation(props: { view: View; overview: Polled<ConsoleOverview>; scheme: ReturnType<typeof useScheme> }) {
  const { scheme, choose } = props.scheme;
  const next = schemes[(schemes.indexOf(scheme) + 1) % schemes.length] as Scheme;
  const SchemeIcon = icons[scheme];
  return (
    <header class="rail">
      <div class="brand">
        <img src="./icon.svg" alt="" width="28" height="28" />
        <span>Pelagic</span>
      </div>
      <nav aria-label="Views">
        <ul>
          {views.map((view) => {
            const ViewIcon = icons[view];
            return (
              <li key={view}>
                <a href={hrefOf(view)} aria-current={view === props.view ? "page" : undefined}>
                  <ViewIcon />
                  {names[view]}
                </a>
              </li>
            );
          })}
        </ul>
      </nav>
      <div class="rail-foot">
        <SystemState {...props.overview} />
        <button type="button" class="quiet scheme" onClick={() => choose(next)}>
          <SchemeIcon />
          <span class="wide-only">Colours: {scheme}</span>
          <span class="unseen">
            Colours {schemeNames[scheme]}; change to {schemeNames[next]}
          </span>
        </button>
      </div>
    </header>
  );
}

function SystemState({ value, error }: Polled<ConsoleOverview>) {
  const [tone, text] = stateOf(value, error !== null);
  return (
    <p class={`system ${tone}`} role="status">
      <span class="dot" aria-hidden="true" />
      <span>
        {value !== null && <strong>{value.gateway.models.map(({ modelName }) => modelName).join(", ")}</strong>}
        <span>{text}</span>
      </span>
    </p>
  );
}

function stateOf(value: ConsoleOverview | null, failing: boolean): [tone: string, text: string] {
  if (failing) return ["bad", "The gateway does not answer"];
  if (value === null) return ["plain", "Asking the gateway"];
  if (value.gateway.notReady !== null) return ["bad", "Not ready"];
  const without = value.gateway.models.filter(({ notReady }) => notReady !== null);
  if (without.length > 0) return ["warn", `${without.map(({ modelName }) => modelName).join(", ")} not ready`];
  const ready = value.workers.filter(({ state }) => state === "ready").length;
  const others = value.workers.length - ready;
  if (others > 0) return ["warn", `${ready} of ${plural(value.workers.length, "worker")} ready`];
  return ["good", `${plural(ready, "worker")} ready`];
}
