import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { busFields, ConfigError, flagName, loadConfig, processFields, readNatsCredentials, variableName } from "./config.ts";

const schema = z.object({ ...processFields, ...busFields, kvBlocks: z.coerce.number().int().positive() });
const dir = mkdtempSync(join(tmpdir(), "pelagic-config-"));
afterAll(() => rmSync(dir, { recursive: true }));

describe("configuration", () => {
  it("names flags and variables after the field", () => {
    expect(flagName("natsCredentialsFile")).toBe("--nats-credentials-file");
    expect(variableName("natsCredentialsFile")).toBe("PELAGIC_NATS_CREDENTIALS_FILE");
  });

  it("takes the flag before the variable, and the default after both", () => {
    const config = loadConfig(schema, {
      env: { PELAGIC_NATS_URL: "127.0.0.1:4222", PELAGIC_KV_BLOCKS: "5", PELAGIC_EXIT_WITH_PARENT: "1", PELAGIC_SERVICE: "" },
      argv: ["--kv-blocks", "7", "--log-level=debug"],
    });
    expect(config).toMatchObject({ kvBlocks: 7, logLevel: "debug", natsUrl: "127.0.0.1:4222", exitWithParent: true, service: "default" });
  });

  it("says which flag and variable are wrong", () => {
    const load = (argv: string[]) => () => loadConfig(schema, { env: {}, argv });
    expect(load([])).toThrow("--nats-url (PELAGIC_NATS_URL): missing; --kv-blocks (PELAGIC_KV_BLOCKS): missing");
    expect(load(["--nats-url", "x", "--kv-blocks", "many"])).toThrow(/^--kv-blocks \(PELAGIC_KV_BLOCKS\): .*number/);
    expect(load(["--colour"])).toThrow(/unknown argument --colour/);
  });

  it("reads credentials from a file, and never quotes it", () => {
    const path = join(dir, "credentials.json");
    writeFileSync(path, '{"user":"u","password":"p"}');
    expect(readNatsCredentials(path)).toEqual({ user: "u", password: "p" });
    expect(readNatsCredentials(undefined)).toBeUndefined();
    writeFileSync(path, '{"password":"secret"');
    expect(() => readNatsCredentials(path)).toThrow(ConfigError);
    expect(() => readNatsCredentials(path)).not.toThrow(/secret/);
    expect(() => readNatsCredentials(join(dir, "absent.json"))).toThrow(/absent.json: ENOENT/);
  });
});
