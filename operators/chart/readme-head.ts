// What the chart's README says before its table of values.
export const readmeHead = `# The chart

Generated from operators/chart by \`npm run generate\`. Kubernetes 1.30 or newer, Helm 3.14 or newer; nothing else is needed in the cluster.

    sudo ./pelagic cluster up && export KUBECONFIG=/var/lib/pelagic-cluster/admin.kubeconfig PATH=$PATH:$PWD/.cache/cluster/bin      # or any other cluster
    helm install pelagic charts/pelagic --set nats.image.repository=localhost/nats --wait         # elsewhere: --set image.repository=...
    helm test pelagic                                                                             # and kubectl get ms says how each model fares
    helm upgrade pelagic charts/pelagic --reset-then-reuse-values --set gateway.replicas=2 --wait # later; helm uninstall pelagic --wait in the end

It makes the operator, a gateway with its Service, NATS with a user for each role, and a first ModelService with the small model that is in
the image. \`--wait\` returns once all of it runs; the model is
served some seconds later, and \`helm test\` waits for it. One release a namespace, and one in the cluster with \`operator.allNamespaces\`,
which leaves the namespaces alone that have a release of their own. Any number of ModelServices beside the first
(\`docs/modelservice.md\`), which the gateway finds by itself.

- **Passwords** of the bus are made once and kept over upgrades. They are looked up in the cluster, so tools that only render (\`helm template\`,
  Argo CD) make new ones each time: give them \`nats.existingSecrets\`.
- **Upgrades** with \`--set\` and without \`--reset-then-reuse-values\` or all of the values file lose what was set before, as Helm has it: the image of NATS, for
  one, and NATS starts anew where its image changes.
- **CRDs** are in \`crds/\`. Helm installs them with the first release and never changes or deletes them. An upgrade brings them to its own version
  by a job before anything else (\`upgradeCrds\`), never to an older one. Its right to change them, and to make one that an older chart did not have, exists while the job runs.
- **Uninstall** first has a job delete the first ModelService and wait until its workers have drained. Other ModelServices are yours: while there
  are any, the uninstall fails and the job's log names them. Where \`drainSeconds\` of both pools add up to more than four minutes, give it a
  \`--timeout\` that is longer than they are. Afterwards nothing of the release is left but the CRDs: \`kubectl delete crd modelservices.pelagic.dev expertplacements.pelagic.dev\`.
  Not \`kubectl delete namespace\` first: the operator ends with it, and a ModelService that waits for its drain keeps the namespace for ever. Where that has happened,
  \`kubectl -n NAMESPACE patch modelservice NAME --type=merge -p '{"metadata":{"finalizers":null}}'\` lets it go undrained.
- **Security**: every pod meets Pod Security's \`restricted\`; only the operator and the jobs have a token for the API server. NetworkPolicies allow
  what is needed and no more, where the cluster's network enforces them (tried with kube-router; the node of \`./pelagic cluster\` does not). Where the API server listens on another port than 443, 6443, 8443
  and 16443, add one that lets the operator and the jobs reach it.
- **An HPA or KEDA** (\`modelService.scaler\`) follows the operator's number within a tenth before Kubernetes 1.35, which lets no HPA be more exact.

## Values
`;
