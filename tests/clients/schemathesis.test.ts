// schemathesis, unmodified, reads /openapi.json and tries it: right requests and wrong ones, each answer held to what the document says.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { embeddedModel } from "../../services/cli/stack/model-folder.ts";
import { startStack, type Stack } from "../../services/cli/stack/stack.ts";
import { tokenIdTitle } from "../../services/lib/contracts/http-fields.ts";
import { loadModelFolder } from "../../services/lib/model/folder.ts";
import { envOf, runPython } from "../support/python.ts";

const env = await envOf("schemathesis");
const { vocabularySize } = loadModelFolder(embeddedModel());

interface Schema {
  required?: string[];
  properties: Record<string, object>;
}
interface Operation {
  requestBody?: { content: Record<string, { schema: { $ref: string } }> };
  responses: Record<number, { content?: object }>;
}
interface Document {
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

describe.skipIf(env.missing)(`schemathesis${env.missing}`, () => {
  let stack: Stack;
  let dir: string;
  let document: Document;
  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "pelagic-schemathesis-"));
    // Short answers: what is right in form may ask for all there is.
    stack = await startStack({ prefill: 1, decode: 1, env: { PELAGIC_DEFAULT_MAX_TOKENS: "8" } });
    document = (await (await fetch(`${stack.baseUrl}/openapi.json`)).json()) as Document;
  }, 120_000);
  afterAll(async () => {
    await stack?.stop();
    if (dir) rmSync(dir, { recursive: true, force: true });
  });

  /** How many requests were made. Throws with what was found. */
  async function tried(location: string, ...options: string[]): Promise<number> {
    const bounded = ["--request-timeout", "120", "--max-response-time", "120"];
    const fixed = ["--url", stack.baseUrl, "--seed", "1", "--no-color", "--generation-database", "none", ...bounded];
    const args = ["-m", "schemathesis.cli", "run", location, ...fixed, ...options];
    const { stdout } = await runPython(env, args, { timeoutMs: 560_000, cwd: dir });
    expect(stdout).toContain(`Tested: ${Object.keys(document.paths).length}\n`);
    return Number(/(\d+) generated, \1 passed/.exec(stdout)?.[1] ?? 0);
  }

  test("every check finds nothing in the document as it stands", async () => {
    expect(await tried(`${stack.baseUrl}/openapi.json`, "--checks", "all", "--max-examples", "20")).toBeGreaterThan(2_000);
  }, 570_000);

  /** The document with the model's name in it, which it does not tell: most requests ended with 404 above. */
  function named(name: string, change: (properties: Record<string, object>, required: string[]) => void): string {
    const changed = structuredClone(document);
    for (const { properties, required = [] } of requestSchemas(changed)) {
      if (properties.model) properties.model = { enum: required.includes("model") ? [stack.modelName] : [stack.modelName, null] };
      change(properties, required);
    }
    const path = join(dir, name);
    writeFileSync(path, JSON.stringify(changed));
    return path;
  }

  test("with the model's name, whatever the document forbids is refused", async () => {
    const wrong = ["--checks", "all", "--mode", "negative", "--phases", "coverage,fuzzing"];
    expect(
      await tried(
        named("wrong.json", () => undefined),
        ...wrong,
        "--max-examples",
        "20",
      ),
    ).toBeGreaterThan(1_000);
  }, 570_000);

  // A request may be right in form and ask for what there is not, such as a tool that nobody offers: so not every one has to be accepted.
  test.each(["answers", "streams"])(
    "with the model's name, %s are what the document says",
    async (kind) => {
      const right = named(`${kind}.json`, (properties, required) => {
        // What depends on the model, the document does not tell: which tokens there are, and that this one's tokenizer begins a prompt with none.
        each(properties, (node) => {
          if (node.title === tokenIdTitle) node.maximum = vocabularySize - 1;
        });
        each(properties.prompt, (node) => {
          if (node.type === "string") node.minLength = 1;
        });
        for (const length of ["max_tokens", "max_output_tokens"]) if (properties[length]) properties[length] = { enum: [4] };
        for (const longer of ["max_completion_tokens", "n", "best_of", "thinking_token_budget"])
          if (properties[longer]) properties[longer] = { type: "null" };
        if (properties.stream && kind === "streams") {
          properties.stream = { enum: [true] };
          required.push("stream");
        }
      });
      const checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--mode", "positive"];
      const report = ["--report", "har", "--report-har-path", join(dir, "report.har")];
      expect(await tried(right, ...checks, ...report, "--phases", "fuzzing,stateful", "--max-examples", "20")).toBeGreaterThan(150);
      const { log } = JSON.parse(readFileSync(join(dir, "report.har"), "utf8")) as Har;
      for (const path of Object.keys(document.paths).filter((path) => document.paths[path]?.post)) {
        const responses = log.entries.flatMap(({ request, response }) => (new URL(request.url).pathname === path ? [response] : []));
        const ok = responses.filter(({ status }) => status === 200);
        expect(ok.length, path).toBeGreaterThan(responses.length / 2);
        const streamed = ok.filter(({ content }) => content.mimeType.startsWith("text/event-stream"));
        const canStream = kind === "streams" && "text/event-stream" in contentOf(document, path);
        if (canStream) expect(streamed.length, path).toBe(ok.length);
      }
    },
    570_000,
  );
});

/** Every object in it. */
function each(node: unknown, change: (node: Record<string, unknown>) => void): void {
  if (typeof node !== "object" || node === null) return;
  if (!Array.isArray(node)) change(node as Record<string, unknown>);
  for (const inner of Object.values(node)) each(inner, change);
}

interface Har {
  log: { entries: { request: { url: string }; response: { status: number; content: { mimeType: string } } }[] };
}

function contentOf({ paths }: Document, path: string): object {
  return paths[path]?.post?.responses[200]?.content ?? {};
}

function requestSchemas({ paths, components }: Document): Schema[] {
  const bodies = Object.values(paths).flatMap((path) =>
    Object.values(path).map(({ requestBody }) => requestBody?.content["application/json"]),
  );
  return bodies.flatMap((body) => (body ? [components.schemas[body.schema.$ref.split("/").at(-1) as string] as Schema] : []));
}
