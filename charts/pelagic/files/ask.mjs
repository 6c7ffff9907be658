// What `helm test` runs: asks the gateway a chat and checks the answer. Ends within its bounds, with a reason.
const { GATEWAY, MODEL, EXPECTED, API_KEY } = process.env;
const headers = { "content-type": "application/json", ...(API_KEY && { authorization: `Bearer ${API_KEY}` }) };
const question = "What is 127 + 536?";
const untilMs = Date.now() + 240_000;

async function call(path, body) {
  const response = await fetch(GATEWAY + path, { method: body ? "POST" : "GET", headers, body, signal: AbortSignal.timeout(120_000) });
  const text = await response.text();
  if (!response.ok) throw new Error(`${path}: ${response.status} ${text.slice(0, 500)}`);
  return JSON.parse(text);
}

async function ask() {
  const listed = (await call("/v1/models")).data.map(({ id }) => id);
  const model = MODEL || listed[0];
  if (!listed.includes(model)) throw new Error(`no model ${model ?? ""} is served yet; served: ${listed.join(", ") || "none"}`);
  const messages = [{ role: "user", content: question }];
  const answer = await call("/v1/chat/completions", JSON.stringify({ model, messages, temperature: 0, max_tokens: 512 }));
  return { model, choice: answer.choices[0], usage: answer.usage };
}

for (;;) {
  try {
    const { model, choice, usage } = await ask();
    const said = choice.message.content ?? "";
    console.log(JSON.stringify({ model, question, said, finish_reason: choice.finish_reason, usage }));
    if (EXPECTED && !said.includes(EXPECTED)) throw Object.assign(new Error(`the answer does not have ${EXPECTED} in it`), { final: true });
    if (!(usage.completion_tokens > 0)) throw Object.assign(new Error("the answer has no tokens"), { final: true });
    break;
  } catch (error) {
    if (error.final || Date.now() > untilMs) {
      console.error(`helm test: ${error.message}`);
      process.exit(1);
    }
    // Workers may still be starting.
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
