// Before an upgrade: brings the cluster's CRD to the version of this image.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { processFields } from "../../services/lib/runtime/config.ts";
import { runProcess } from "../../services/lib/runtime/process.ts";
import { crdName } from "../api/crd.ts";
import { ApiClient, ApiError } from "../kube/api-client.ts";
import { kubeconfigField, loadKubeConfig } from "../kube/kubeconfig.ts";
import { crdChange, type FoundCrd } from "./crd-change.ts";

const path = `/apis/apiextensions.k8s.io/v1/customresourcedefinitions/${crdName}`;
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
    for (let attempt = 1; ; attempt++) {
      try {
        const change = crdChange(await client.call<FoundCrd>("GET", path, { resource }), version);
        if (change.action === "replace") await client.call("PUT", path, { resource, body: change.object });
        log.info({ crd: crdName, version }, change.action === "replace" ? "the CRD is up to date" : `the CRD is kept: ${change.reason}`);
        return stop("done");
      } catch (error) {
        if (error instanceof ApiError && error.status === 404)
          throw new Error(`the cluster has no CRD ${crdName}: kubectl apply -f crds/ of the chart`);
        if (!(error instanceof ApiError && error.status === 409) || attempt === attempts) throw error;
      }
    }
  },
});
