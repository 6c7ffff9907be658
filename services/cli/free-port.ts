// For programs that want to be told their port.
import { createServer, type AddressInfo } from "node:net";

/** Of 127.0.0.1, free a moment ago: somebody else may have it by the time it is used. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer().once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address() as AddressInfo;
      probe.close(() => resolve(port));
    });
  });
}
