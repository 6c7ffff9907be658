// ./pelagic build: the native engine, now, instead of at the first `up`.
import type { Command } from "commander";
import { addonPath, buildNative } from "./native-build.ts";

export function register(program: Command): void {
  program
    .command("build")
    .description("build the native engine, if it is due")
    .option("--json", "print the result as JSON")
    .addHelpText("after", "\nExample:\n  ./pelagic build")
    .action(async (options: { json?: boolean }) => {
      const built = await buildNative((text) => process.stderr.write(`${text}\n`), {
        onOutput: (chunk) => void (options.json || process.stderr.write(chunk)),
        shown: !options.json,
      });
      process.stdout.write(
        options.json ? `${JSON.stringify({ addon: addonPath, built })}\n` : `${built ? "built" : "up to date"}: ${addonPath}\n`,
      );
    });
}
