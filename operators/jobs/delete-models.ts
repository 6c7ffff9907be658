// Before the end of a release: deletes the ModelServices that it made and waits until the operator has drained them. Refuses where there are others.
import { z } from "zod";
import { processFields } from "../../services/lib/runtime/config.ts";
import { exitCodes, runProcess } from "../../services/lib/runtime/process.ts";
import { ApiClient, ApiError } from "../kube/api-client.ts";
import { kubeconfigField, loadKubeConfig } from "../kube/kubeconfig.ts";
import { collectionPath, modelServiceResource, objectPath } from "../kube/resources.ts";
import { modelsOfRelease, type NamedObject, patience, refusal } from "./release-models.ts";

const resource = "modelservices";
const pollMs = 500;

await runProcess({
  name: "delete-models",
  config: z.object({
    ...processFields,
    ...kubeconfigField,
    releaseName: z.string().min(1),
    releaseNamespace: z.string().min(1),
    /** Where the operator looks after ModelServices; all namespaces unless given. */
    namespace: z.string().min(1).optional(),
  }),
  async main({ config, log, stop, stopping }) {
    const client = new ApiClient(loadKubeConfig(config.kubeconfig), { called: () => undefined });
    const list = async () => {
      try {
        const { items } = await client.call<{ items: NamedObject[] }>("GET", collectionPath(modelServiceResource, config.namespace), {
          resource,
        });
        return modelsOfRelease(items, { name: config.releaseName, namespace: config.releaseNamespace });
      } catch (error) {
        // Without the CRD there are none.
        if (error instanceof ApiError && error.status === 404) return { own: [], others: [] };
        throw error;
      }
    };
    const { own, others } = await list();
    if (others.length > 0) {
      // Read by a person, in this job's log: hence lines, not a record of the log.
      process.stderr.write(`delete-models: ${refusal(others)}\n`);
      process.exit(exitCodes.failed);
    }
    for (const { metadata } of own) {
      const { name, namespace, uid } = metadata;
      log.info({ namespace, name }, "deleting");
      const body = { apiVersion: "v1", kind: "DeleteOptions", propagationPolicy: "Background", preconditions: { uid } };
      await client.call("DELETE", objectPath({ ...modelServiceResource, namespace, name }), { resource, body }).catch((error: unknown) => {
        if (!(error instanceof ApiError && error.status === 404)) throw error;
      });
    }
    const isDrained = async () => {
      try {
        return (await list()).own.length === 0;
      } catch (error) {
        // A drain takes minutes, and an API server may be away for a moment of them.
        if (!(error instanceof ApiError) || !isPassing(error)) throw error;
        log.warn({ status: error.status, error: error.message }, "the API server did not answer, and is asked again");
        return false;
      }
    };
    if (own.length > 0) process.stderr.write(`delete-models: ${patience(own)}\n`);
    // The operator bounds the drain, and the Job this wait.
    while (!(await isDrained()) && !stopping.aborted) await new Promise((resolve) => setTimeout(resolve, pollMs));
    if (!stopping.aborted) stop("done");
  },
});

function isPassing({ status }: ApiError): boolean {
  return status === 0 || status === 429 || status >= 500;
}
