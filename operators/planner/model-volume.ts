// The model as a pod sees it: a path, and the volume that it lies in.
import { posix } from "node:path";
import type { ModelService } from "../api/model-service.ts";
import type { PlannerConfig } from "./config.ts";

const mountPath = "/var/lib/pelagic/model";
const volumeName = "model";

export interface MountedModel {
  /** For PELAGIC_MODEL; relative: in the image's own folder. */
  path: string;
  volumes: object[];
  mounts: object[];
}

export function mountedModel({ spec }: ModelService, config: PlannerConfig): MountedModel {
  const { pvc, hostPath, image } = spec.model;
  const mounted = (source: object, innerPath?: string): MountedModel => ({
    path: innerPath === undefined ? mountPath : posix.join(mountPath, innerPath),
    volumes: [{ name: volumeName, ...source }],
    // Several models, or other files, may lie beside it; nothing is written.
    mounts: [{ name: volumeName, mountPath, readOnly: true }],
  });
  if (pvc) return mounted({ persistentVolumeClaim: { claimName: pvc.claimName } }, pvc.path);
  // Directory: a node without it says so, instead of an empty folder that is made on the spot.
  if (hostPath) return mounted({ hostPath: { path: hostPath.path, type: "Directory" } });
  if (image) return mounted({ image: { reference: image.reference, pullPolicy: image.pullPolicy } }, image.path);
  return { path: config.embeddedModelPath, volumes: [], mounts: [] };
}
