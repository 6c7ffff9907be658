import { render } from "preact";
import { App } from "./shell/app.tsx";
import { applyKeptScheme } from "./shell/scheme.ts";
import "uplot/dist/uPlot.min.css";
import "./shell/base.css";
import "./shell/controls.css";
import "./shell/frame.css";
import "./chat/chat.css";
import "./pools/pools.css";
import "./experts/experts.css";
import "./requests/requests.css";

applyKeptScheme();
render(<App />, document.getElementById("root") as HTMLElement);
