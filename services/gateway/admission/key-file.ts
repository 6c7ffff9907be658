// Keeps the keys that a file names, over its changes: looked at every second and on SIGHUP. A file that cannot be read keeps the old keys.
import { readFileSync, unwatchFile, watchFile } from "node:fs";
import type { Log } from "../../lib/contracts/bus.ts";
import { KeyRing, parseKeysFile } from "./api-keys.ts";

const lookMs = 1_000;

export class KeyFile {
  private readonly path: string;
  private readonly log: Log;
  private readonly onChange: (ring: KeyRing) => void;
  private readonly reload = () => this.read();
  private last: string;
  /** It could not be read when it last changed: keys that were revoked since may still be taken. */
  isUnread = false;

  /** Throws what is wrong with the file. `onChange` is called with the keys of each file that can be read, this one first. */
  constructor(path: string, log: Log, onChange: (ring: KeyRing) => void) {
    this.path = path;
    this.log = log;
    this.onChange = onChange;
    this.last = readFileSync(path, "utf8");
    onChange(new KeyRing(parseKeysFile(this.last)));
    // By its stat and not by inotify: a file that is replaced, as editors and Kubernetes do it, is another inode.
    watchFile(path, { interval: lookMs, persistent: false }, this.reload);
    process.on("SIGHUP", this.reload);
  }

  close(): void {
    unwatchFile(this.path, this.reload);
    process.off("SIGHUP", this.reload);
  }

  private read(): void {
    try {
      const text = readFileSync(this.path, "utf8");
      const ring = new KeyRing(parseKeysFile(text));
      this.isUnread = false;
      if (text === this.last) return;
      this.last = text;
      this.onChange(ring);
      this.log.info({ keys: ring.size }, "API keys read again");
    } catch (error) {
      this.isUnread = true;
      this.log.error(
        { path: this.path, error: error instanceof Error ? error.message : String(error) },
        "API keys not read: the old ones stay",
      );
    }
  }
}
