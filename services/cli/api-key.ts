/** The key that a command sends: of an instance of ours, which it finds itself, or of the server that the caller names; never the one's to the other. */
export function keyFor(baseUrl: string | undefined, env: NodeJS.ProcessEnv): string | undefined {
  return (baseUrl === undefined ? env.PELAGIC_API_KEY : env.OPENAI_API_KEY) || undefined;
}
