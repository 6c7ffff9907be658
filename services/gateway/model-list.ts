// Which models a gateway serves, as its configuration names them: FOLDER or NAME=FOLDER, several of them one a line.
import { basename, resolve } from "node:path";
import { nameFault } from "./model-catalogue.ts";

export interface NamedFolder {
  /** What clients call it; the folder's own name unless given. */
  name: string;
  folder: string;
}

/** Each has a tokenizer of its own in memory, and threads. */
export const maxModels = 64;

/** Throws an Error that says which entry is at fault. */
export function parseModelList(text: string): NamedFolder[] {
  const models = text.split("\n").map(parseModel);
  if (models.length > maxModels) throw new Error(`${models.length} models, at most ${maxModels}`);
  const names = models.map(({ name }) => name);
  const twice = names.find((name, at) => names.indexOf(name) < at);
  if (twice !== undefined) throw new Error(`two models are named ${JSON.stringify(twice)}: name one of them as in NAME=FOLDER`);
  return models;
}

/** What stands before the first "=" is the name, but for a path that begins with "/" or "." and has a "=" in it. */
function parseModel(entry: string): NamedFolder {
  const named = /^(?![./])([^=]*)=(.*)$/s.exec(entry);
  const [name, folder] = named === null ? [basename(resolve(entry)), entry] : [named[1] as string, named[2] as string];
  if (folder === "") throw new Error(`${JSON.stringify(entry)} names no folder: FOLDER or NAME=FOLDER expected`);
  const fault = nameFault(name);
  if (fault !== null) throw new Error(`${JSON.stringify(name)} is ${fault}`);
  return { name, folder };
}
