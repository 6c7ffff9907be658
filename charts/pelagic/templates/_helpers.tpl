{{/* First part of all names; a gateway's id is its pod's name, which may have 64 characters. */}}
{{- define "pelagic.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Takes (list context component). */}}
{{- define "pelagic.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ if eq (index . 1) "nats" }}nats{{ else }}pelagic{{ end }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "pelagic.labels" -}}
{{- $ := index . 0 -}}
{{ include "pelagic.selector" . }}
app.kubernetes.io/part-of: pelagic
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Takes (list image defaultTag). */}}
{{- define "pelagic.image" -}}
{{- $image := index . 0 -}}
{{- $image.repository }}:{{ $image.tag | default (index . 1) }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "pelagic.ownImage" -}}
image: {{ include "pelagic.image" (list .Values.image .Chart.AppVersion) | quote }}
{{- with .Values.image.pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{/* Pod Security's "restricted". */}}
{{- define "pelagic.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "pelagic.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the values say of a Deployment's pods; takes (list context component). */}}
{{- define "pelagic.podMetadata" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
labels:
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- /* Nothing that changes with the chart's version, so that an upgrade restarts what it changes and no more. */}}
  {{- include "pelagic.selector" . | nindent 2 }}
  app.kubernetes.io/part-of: pelagic
  app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end -}}

{{- define "pelagic.placement" -}}
{{- $given := . -}}
{{- $ := index . 0 -}}
{{- $values := index $.Values (index . 1) -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pelagic.selector" $given | nindent 8 }}
  {{- end }}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* HOST:PORT of the bus, from any namespace. */}}
{{- define "pelagic.natsUrl" -}}
{{- .Values.nats.externalUrl | default (printf "%s-nats.%s.svc:4222" (include "pelagic.fullname" .) .Release.Namespace) -}}
{{- end -}}

{{/* The Secret with a role's credentials; empty: an external server without users. Takes (list context role). */}}
{{- define "pelagic.natsSecret" -}}
{{- $ := index . 0 -}}
{{- $existing := index $.Values.nats.existingSecrets (index . 1) -}}
{{- if $existing -}}
{{- $existing -}}
{{- else if not $.Values.nats.externalUrl -}}
{{- printf "%s-nats-%s" (include "pelagic.fullname" $) (index . 1) -}}
{{- end -}}
{{- end -}}

{{/* Takes (list context "auto"|"always"|"never" kind of monitoring.coreos.com/v1). */}}
{{- define "pelagic.whenKnown" -}}
{{- $ := index . 0 -}}
{{- if or (eq (index . 1) "always") (and (eq (index . 1) "auto") ($.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" (index . 2)))) -}}
yes
{{- end -}}
{{- end -}}

{{/* The metric says what has been thought over: waiting once more makes an HPA late, and a tenth more or less is not the same number. */}}
{{- define "pelagic.hpaBehavior" -}}
{{- $tolerance := semverCompare ">=1.35-0" .Capabilities.KubeVersion.Version -}}
{{- if $tolerance -}}
scaleUp:
  tolerance: "0"
{{ end -}}
scaleDown:
  {{- if $tolerance }}
  tolerance: "0"
  {{- end }}
  stabilizationWindowSeconds: 0
{{- end -}}

{{/* Rules of NetworkPolicies. */}}
{{- define "pelagic.toDns" }}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}
{{- /* No policy can name its address; its port is the one behind its Service, that of common clusters (minikube has 8443, MicroK8s 16443). */}}
{{- define "pelagic.toApiServer" }}
- ports:
    - port: 443
    - port: 6443
    - port: 8443
    - port: 16443
{{- end }}
{{- /* An external server may be anywhere. */}}
{{- define "pelagic.toNats" }}
{{- if .Values.nats.externalUrl }}
- ports:
    {{- range splitList "," .Values.nats.externalUrl }}
    - port: {{ last (splitList ":" .) | int }}
    {{- end }}
{{- else }}
- to:
    - podSelector:
        matchLabels:
          {{- include "pelagic.selector" (list . "nats") | nindent 10 }}
  ports:
    - port: 4222
{{- end }}
{{- end }}
{{- define "pelagic.fromScrapers" }}
- ports:
    - port: 9100
  {{- with .Values.networkPolicy.scrapers }}
  from:
    {{- toYaml . | nindent 4 }}
    - podSelector:
        matchLabels:
          {{- include "pelagic.selector" (list $ "operator") | nindent 10 }}
  {{- end }}
{{- end }}
