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

function isModel(dir: string): boolean {
  return existsSync(join(dir, "config.json")) && readdirSync(dir).some((name) => name.endsWith(".safetensors"));
}

/** Absolute. Throws what is wrong with the folder before anything starts; the engine checks the contents. */
export function checkedModelFolder(dir: string, needs: { tokenizer: boolean } = { tokenizer: true }): string {
  const path = resolve(dir);
  if (!existsSync(path) || !statSync(path).isDirectory()) throw new CliError(`--model: ${path} is not a folder`);
  const missing = whatIsMissing(path);
  if (missing.length === 0) return path;
  throw new CliError(
    `--model: ${path} has no ${missing.join(", no ")}: a Hugging Face model folder has config.json, tokenizer.json and *.safetensors`,
  );
}

function whatIsMissing(dir: string): string[] {
  const names = statSync(dir).isDirectory() ? readdirSync(dir) : [];
  const files = ["config.json", ...(needs.tokenizer ? ["tokenizer.json"] : [])];
  const missing = files.filter((name) => !names.includes(name));
  if (!names.some((name) => name.endsWith(".safetensors"))) missing.push("*.safetensors");
  return missing;
}
