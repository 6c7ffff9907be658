// Before an upgrade: brings the cluster's CRDs to the version of this image, and makes those that an older chart did not have.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { processFields } from "../../services/lib/runtime/config.ts";
import { runProcess } from "../../services/lib/runtime/process.ts";
import { crdNames } from "../api/crd.ts";
import { ApiClient, ApiError } from "../kube/api-client.ts";
import { kubeconfigField, loadKubeConfig } from "../kube/kubeconfig.ts";
import { crdChange, type FoundCrd } from "./crd-change.ts";

const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const resource = "customresourcedefinitions";
/** Another writer may be quicker; what then fails, the job tries again. */
const attempts = 5;

await runProcess({
  name: "apply-crds",
  config: z.object({ ...processFields, ...kubeconfigField }),
  async main({ config, log, stop }) {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, "..", "..", "..", "package.json"), "utf8")) as {
      version: string;
    };
    const client = new ApiClient(loadKubeConfig(config.kubeconfig), { called: () => undefined });
    const found = (name: string) =>
      client.call<FoundCrd>("GET", `${path}/${name}`, { resource }).catch((error: unknown) => {
        if (error instanceof ApiError && error.status === 404) return undefined;
        throw error;
      });
    const bringUpToDate = async (name: string) => {
      const change = crdChange(name, await found(name), version);
      if (change.action === "create") await client.call("POST", path, { resource, body: change.object });
      if (change.action === "replace") await client.call("PUT", `${path}/${name}`, { resource, body: change.object });
      log.info({ crd: name, version }, change.action === "keep" ? `the CRD is kept: ${change.reason}` : "the CRD is up to date");
    };
    for (const name of crdNames) {
      for (let attempt = 1; ; attempt++) {
        try {
          await bringUpToDate(name);
          break;
        } catch (error) {
          if (!(error instanceof ApiError && error.status === 409) || attempt === attempts) throw error;
        }
      }
    }
    stop("done");
  },
});
