// Requests whose answers follow from their seeds alone, for what a release on the node must not lose or change.
import type { NodeRelease } from "./node-release.ts";

/** In one body: the same text however often it is asked, wherever it is made; another status as "STATUS: body". */
export async function complete(release: NodeRelease, seed: number, maxTokens: number): Promise<string> {
  const address = await release.address();
  const response = await fetch(`http://${address}:8000/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "plankton", prompt: "Once", max_tokens: maxTokens, temperature: 1, seed, ignore_eos: true }),
    signal: AbortSignal.timeout(120_000),
  });
  const body = await response.text();
  return response.status === 200 ? (JSON.parse(body) as { choices: [{ text: string }] }).choices[0].text : `${response.status}: ${body}`;
}

/** As a stream, with what is done once `after` pieces of it have come, and how many came later. */
export async function streamed(release: NodeRelease, seed: number, maxTokens: number, after: number, act: () => Promise<void>) {
  const response = await fetch(`http://${await release.address()}:8000/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: "plankton",
      prompt: "Once",
      max_tokens: maxTokens,
      temperature: 1,
      seed,
      ignore_eos: true,
      stream: true,
    }),
    signal: AbortSignal.timeout(120_000),
  });
  if (response.status !== 200) throw new Error(`${response.status}: ${await response.text()}`);
  const result = { text: "", pieces: 0, later: 0, finish: "", done: false };
  let rest = "";
  let acted: Promise<void> | undefined;
  let over = false;
  for await (const chunk of (response.body as ReadableStream<Uint8Array>).pipeThrough(new TextDecoderStream())) {
    const events = (rest + chunk).split("\n\n");
    rest = events.pop() as string;
    for (const data of events.map((event) => event.replace(/^data: /, "")).filter((event) => !event.startsWith(":"))) {
      if (data === "[DONE]") result.done = true;
      else {
        const [choice] = (JSON.parse(data) as { choices: { text: string; finish_reason: string | null }[] }).choices;
        result.text += choice?.text ?? "";
        result.finish = choice?.finish_reason ?? result.finish;
        result.pieces++;
        if (over) result.later++;
      }
      if (result.pieces >= after)
        acted ??= act().then(() => {
          over = true;
        });
    }
  }
  await acted;
  return result;
}

/** Clients that ask one thing after another until what is done is done: how many answers there were, and those that were not what was due. */
export async function underLoad(release: NodeRelease, act: () => Promise<void>): Promise<{ answers: number; wrong: string[] }> {
  const [clients, tokens] = [4, 48];
  const due = await Promise.all(Array.from({ length: clients }, (_, seed) => complete(release, seed, tokens)));
  const result = { answers: 0, wrong: [] as string[] };
  let over = false;
  const load = due.map(async (text, seed) => {
    while (!over) {
      const got = await complete(release, seed, tokens).catch(
        (error: unknown) => `${String(error)} ${String((error as Error).cause ?? "")}`,
      );
      result.answers++;
      if (got !== text) result.wrong.push(got.slice(0, 300));
    }
  });
  try {
    await act();
  } finally {
    over = true;
    await Promise.all(load);
  }
  return result;
}
