// How a gateway learns a model from its workers: the small files of the model's folder, never weights. A worker names them by one digest in its
// account of itself; whoever asks gets first the list that this digest is of, then each file in pieces, held to the list.
import { createHash } from "node:crypto";
import { z } from "zod";
import { Refusal } from "./messages.ts";

/** All that a gateway reads of a model folder (lib/model/folder.ts), in the order of the list. */
export const smallFileNames = [
  "chat_template.jinja",
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
] as const;
export type SmallFileName = (typeof smallFileNames)[number];

/** Of all files of one model together. tokenizer.json of DeepSeek-V3 has 8 MB, the largest that are published have 35. */
export const maxModelFileBytes = 64 * 1024 * 1024;
/** Of a file in one message: well under what the server takes. */
export const filePieceBytes = 256 * 1024;

const hexDigest = z.string().regex(/^[0-9a-f]{64}$/);
const count = z.number().int().nonnegative();

export const FileEntry = z.strictObject({ name: z.enum(smallFileNames), bytes: count.max(maxModelFileBytes), sha256: hexDigest });
export type FileEntry = z.infer<typeof FileEntry>;

/** To one worker, on its files subject. Without a file: the list is wanted. */
export const FilesRequest = z.object({
  v: z.number(),
  filesDigest: hexDigest,
  piece: z.object({ name: z.enum(smallFileNames), from: count }).optional(),
});
export type FilesRequest = z.infer<typeof FilesRequest>;

export const FilesReply = z.discriminatedUnion("kind", [
  z.object({ v: z.number(), kind: z.literal("list"), files: z.array(FileEntry).max(smallFileNames.length) }),
  /** Tail: so many bytes of the file from there on, filled up to whole words. */
  z.object({ v: z.number(), kind: z.literal("piece"), name: z.enum(smallFileNames), from: count, bytes: count.max(filePieceBytes) }),
  Refusal,
]);
export type FilesReply = z.infer<typeof FilesReply>;

/** What a worker has to offer. */
export interface OfferedFiles {
  digest: string;
  list: FileEntry[];
  files: ReadonlyMap<SmallFileName, Uint8Array>;
}

export function offeredFiles(files: ReadonlyMap<SmallFileName, Uint8Array>): OfferedFiles {
  const list = smallFileNames.flatMap((name): FileEntry[] => {
    const content = files.get(name);
    return content === undefined ? [] : [{ name, bytes: content.length, sha256: sha256(content) }];
  });
  return { digest: digestOfList(list), list, files };
}

/** One digest for all files: equal ones mean equal bytes under equal names. */
export function digestOfList(list: readonly FileEntry[]): string {
  return sha256(list.map(({ name, bytes, sha256 }) => `${name} ${bytes} ${sha256}\n`).join(""));
}

export function sha256(content: Uint8Array | string): string {
  return createHash("sha256").update(content).digest("hex");
}

/** Bytes as a message's tail, which is made of words. */
export function packPiece(piece: Uint8Array): Uint32Array {
  const words = new Uint32Array(Math.ceil(piece.length / 4));
  new Uint8Array(words.buffer).set(piece);
  return words;
}

/** null: the tail is not as long as it should be. */
export function unpackPiece(words: Uint32Array, bytes: number): Uint8Array | null {
  return words.length === Math.ceil(bytes / 4) ? new Uint8Array(words.buffer, words.byteOffset, bytes) : null;
}
