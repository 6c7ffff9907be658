// Which model a stack serves: the folder given, or the one that ships in the tree.
import { existsSync, readdirSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { CliError } from "../cli-error.ts";
import { inTree } from "../tree.ts";

/** The only folder under models/ that holds a model. */
export function embeddedModel(): string {
  const base = inTree("models");
  const folders = existsSync(base) ? readdirSync(base).filter((name) => whatIsMissing(join(base, name)).length === 0) : [];
  if (folders.length === 1) return join(base, folders[0] as string);
  if (folders.length === 0) throw new CliError("no model folder under models/: name one with --model DIR");
  throw new CliError(`several models under models/ (${folders.join(", ")}): name one with --model DIR`);
}

/** Absolute. Throws what is wrong with the folder before anything starts; the engine checks the contents. Only a gateway needs a tokenizer. */
export function checkedModelFolder(dir: string, needs: { tokenizer: boolean } = { tokenizer: true }): string {
  const path = resolve(dir);
  if (!existsSync(path) || !statSync(path).isDirectory()) throw new CliError(`--model: ${path} is not a folder`);
  const missing = whatIsMissing(path, needs.tokenizer);
  if (missing.length === 0) return path;
  throw new CliError(
    `--model: ${path} has no ${missing.join(", no ")}: a Hugging Face model folder has config.json, tokenizer.json and *.safetensors`,
  );
}

function whatIsMissing(dir: string, tokenizer = true): string[] {
  const names = statSync(dir).isDirectory() ? readdirSync(dir) : [];
  const files = ["config.json", ...(tokenizer ? ["tokenizer.json"] : [])];
  const missing = files.filter((name) => !names.includes(name));
  if (!names.some((name) => name.endsWith(".safetensors"))) missing.push("*.safetensors");
  return missing;
}
