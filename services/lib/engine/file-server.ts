// Gives a worker's small model files to gateways, as they were when it started: what changes in the folder later is another model's.
import type { Bus, BusMessage } from "../contracts/bus.ts";
import { filePieceBytes, FilesRequest, type OfferedFiles, packPiece } from "../contracts/model-files.ts";
import { decodeMessage, encodeMessage } from "../contracts/wire.ts";

export class FileServer {
  private readonly offered: OfferedFiles;

  constructor(bus: Bus, subject: string, offered: OfferedFiles) {
    this.offered = offered;
    bus.subscribe(subject, (message) => this.onRequest(message));
  }

  private onRequest(message: BusMessage): void {
    const { filesDigest, piece } = decodeMessage(FilesRequest, message.data).body;
    const respond = (body: object, tail?: Uint32Array) => message.respond?.(encodeMessage(body, tail));
    const refuse = (text: string) => respond({ kind: "error", error: { code: "not_found", message: text } });
    const { digest, list, files } = this.offered;
    if (filesDigest !== digest) {
      refuse(`these files are ${digest.slice(0, 12)}, not ${filesDigest.slice(0, 12)}`);
    } else if (piece === undefined) {
      respond({ kind: "list", files: list });
    } else {
      const { name, from } = piece;
      const content = files.get(name);
      if (content === undefined || from > content.length) {
        refuse(`${name}: nothing from byte ${from} on`);
        return;
      }
      const part = content.subarray(from, from + filePieceBytes);
      respond({ kind: "piece", name, from, bytes: part.length }, packPiece(part));
    }
  }
}
