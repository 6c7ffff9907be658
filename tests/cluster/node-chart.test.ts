// The chart on a real node, as a user meets it: helm install, a chat through the Service, helm test, an upgrade, a killed decode pod, another image
// under load, a killed leader, a deleted model, helm uninstall, and nothing is left. Needs root; the steps build on each other.
import { expect, it } from "vitest";
import { pelagicTag } from "../../services/cli/cluster/images.ts";
import { containerdSocket } from "../../services/cli/cluster/layout.ts";
import { runCommand } from "../../services/cli/run-command.ts";
import { complete, streamed, underLoad } from "./node-load.ts";
import { describeRelease, repository, tag } from "./node-release.ts";
import { askSum, kube, stepMs } from "./real-node.ts";

describeRelease("the chart on a node", "pelagic-chart", (release) => {
  const settled = () => release.kube("wait", "modelservice/plankton", "--for=condition=Progressing=False", "--timeout=240s");

  it(
    "answers a chat within a minute of helm install",
    async () => {
      const begun = performance.now();
      const notes = await release.helm("install", "--wait");
      await release.answers();
      const seconds = (performance.now() - begun) / 1000;
      console.log(`helm install to the answer: ${seconds.toFixed(1)} s`);
      expect(notes).toContain("helm test pelagic");
      expect(seconds).toBeLessThan(60);
      await release.kube("wait", "modelservice/plankton", "--for=condition=Progressing=False", "--timeout=60s");
      expect(await release.kube("get", "modelservice", "plankton")).toMatch(/plankton +plankton +1\/1 +1\/1 +True/);
    },
    stepMs,
  );

  it(
    "passes its own test",
    async () => {
      const said = await release.helm("test");
      expect(said).toContain("Phase:          Succeeded");
      expect(said).toContain("663");
    },
    stepMs,
  );

  it(
    "upgrades: the job brings the CRD up to date, two gateways and two operators answer, and what is not changed stays",
    async () => {
      const pods = () => release.kube("get", "pods", "-l", "app.kubernetes.io/component in (prefill,decode,nats)", "-o", "name");
      const before = await pods();
      await kube("annotate", "crd", "modelservices.pelagic.dev", "pelagic.dev/version=0.0.1", "--overwrite");
      await release.helm("upgrade", "--set", "gateway.replicas=2,operator.replicas=2", "--wait");
      expect(await askSum(await release.address(), 60_000)).toMatch(/\b663\b/);
      expect(await pods()).toBe(before);
      expect(await kube("get", "crd", "modelservices.pelagic.dev", "-o", "jsonpath={.metadata.annotations}")).not.toContain("0.0.1");
    },
    stepMs,
  );

  it(
    "ends an answer right whose decode pod is killed in the middle of it",
    async () => {
      const tokens = 3_000;
      const undisturbed = await complete(release, 7, tokens);
      const [pod] = await release.podsOf("decode");
      const answer = await streamed(release, 7, tokens, 50, async () => {
        await release.kube("delete", "pod", pod as string, "--grace-period=0", "--force");
      });
      console.log(`the decode pod was gone ${answer.later} of ${answer.pieces} pieces before the answer's end`);
      expect(answer).toMatchObject({ text: undisturbed, finish: "length", done: true });
      // Or it was killed too late to count.
      expect(answer.later).toBeGreaterThan(0);
      await settled();
      expect(await release.podsOf("decode")).not.toContain(pod);
    },
    stepMs,
  );

  it(
    "changes the image of everything under load, and no request notices",
    async () => {
      const next = `${tag}-next`;
      const tagged = await runCommand(
        "ctr",
        ["-a", containerdSocket, "-n", "k8s.io", "images", "tag", pelagicTag, `${repository}:${next}`],
        {
          timeoutMs: stepMs,
        },
      );
      expect(tagged.exitCode, tagged.stderr).toBe(0);
      const { answers, wrong } = await underLoad(release, async () => {
        const sizes = "gateway.replicas=2,operator.replicas=2";
        await release.helm("upgrade", "--set", sizes, "--set-string", `image.tag=${next}`, "--wait");
        for (const pool of ["prefill", "decode"]) {
          const deployment = `deployment -l pelagic.dev/modelservice=plankton,pelagic.dev/pool=${pool}`.split(" ");
          const at = performance.now();
          const image = "jsonpath={.items[0].spec.template.spec.containers[0].image}";
          while (!(await release.kube("get", ...deployment, "-o", image)).endsWith(next)) {
            expect(performance.now() - at, `${pool} still wants another image`).toBeLessThan(60_000);
            await new Promise((resolve) => setTimeout(resolve, 500));
          }
          await release.kube("rollout", "status", ...deployment, "--timeout=240s");
        }
        await settled();
      });
      console.log(`${answers} answers while every image changed`);
      expect(wrong).toEqual([]);
      expect(answers).toBeGreaterThan(20);
    },
    2 * stepMs,
  );

  it(
    "goes on when the leading operator is killed",
    async () => {
      const lease = await release.kube("get", "lease", "-o", "jsonpath={.items[0].spec.holderIdentity}");
      const leader = (await release.podsOf("operator")).find((pod) => lease.includes(pod));
      expect(leader, lease).toBeDefined();
      await release.kube("delete", "pod", leader as string, "--grace-period=0", "--force");
      const begun = performance.now();
      await release.kube("patch", "modelservice", "plankton", "--type=merge", "-p", '{"spec":{"pools":{"decode":{"replicas":2}}}}');
      await release.kube("wait", "modelservice/plankton", "--for=jsonpath={.status.pools.decode.ready}=2", "--timeout=120s");
      console.log(`a killed leader to two decode pods: ${((performance.now() - begun) / 1000).toFixed(1)} s`);
      const { wrong } = await underLoad(release, async () => {
        await release.kube("patch", "modelservice", "plankton", "--type=merge", "-p", '{"spec":{"pools":{"decode":{"replicas":1}}}}');
        await release.kube("wait", "modelservice/plankton", "--for=jsonpath={.status.pools.decode.ready}=1", "--timeout=120s");
      });
      expect(wrong).toEqual([]);
    },
    stepMs,
  );

  it(
    "takes a deleted model's workers away, and says that there are none",
    async () => {
      await release.kube("delete", "modelservice", "plankton", "--timeout=240s");
      // Drained by then; the pods end in their own time.
      const workers = async () => [...(await release.podsOf("prefill")), ...(await release.podsOf("decode"))];
      for (let tries = 0; (await workers()).length > 0 && tries < 120; tries++) await new Promise((resolve) => setTimeout(resolve, 500));
      expect(await workers()).toEqual([]);
      expect(await complete(release, 1, 4)).toMatch(/^(503|404)/);
    },
    stepMs,
  );
});
