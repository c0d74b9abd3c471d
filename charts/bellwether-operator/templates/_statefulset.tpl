{{- define "bellwether-operator.statefulset" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "bellwether-operator.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  # Ordinals are node ids: a pod that is replaced takes up its place in the election and in the graphs.
  serviceName: {{ include "bellwether-operator.fullname" . }}-headless
  replicas: {{ .Values.replicaCount }}
  # No pod waits for another one: the nodes agree among themselves.
  podManagementPolicy: Parallel
  updateStrategy: {{- default (dict "type" "RollingUpdate") .Values.updateStrategy | toYaml | nindent 4 }}
  revisionHistoryLimit: {{ int .Values.revisionHistoryLimit }}
  selector:
    matchLabels: {{- include "bellwether-operator.selector" . | nindent 6 }}
  template:
    metadata:
      # No version among them: a chart that changes nothing else restarts no pod.
      {{- $selector := include "bellwether-operator.selector" . | fromYaml }}
      labels: {{- merge (dict) $selector (default dict .Values.podLabels) (default dict .Values.commonLabels) | toYaml | nindent 8 }}
      {{- with .Values.podAnnotations }}
      annotations: {{- toYaml . | nindent 8 }}
      {{- end }}
    spec: {{- include "bellwether-operator.podSpec" . | nindent 6 }}
{{- end -}}

{{- define "bellwether-operator.podSpec" -}}
serviceAccountName: {{ include "bellwether-operator.serviceAccount" . }}
automountServiceAccountToken: true
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else if not (or (.Values.affinity).podAffinity (.Values.affinity).podAntiAffinity) }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "bellwether-operator.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{ include "bellwether-operator.podSettings" . }}
{{- with include "bellwether-operator.lists" (list . .Values.operator.initContainers .Values.extraInitContainers) | trim }}
initContainers: {{- . | nindent 2 }}
{{- end }}
containers:
  {{- include "bellwether-operator.container" . | nindent 2 }}
  {{- with include "bellwether-operator.lists" (list . .Values.operator.containers .Values.extraContainers) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- $own := include "bellwether-operator.clusterVolumes" . | trim }}
{{- with list $own (include "bellwether-operator.lists" (list . .Values.operator.volumes .Values.extraVolumes) | trim) | compact }}
volumes: {{- join "\n" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Fields that the pods of the nodes and the pod of `helm test` have in common. */}}
{{- define "bellwether-operator.podSettings" -}}
{{- with include "bellwether-operator.imagePullSecrets" . }}
imagePullSecrets: {{- . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "bellwether-operator.securityContext" (list . .Values.podSecurityContext) | nindent 2 }}
{{- end -}}

{{/* "true" on OpenShift. In a YAML file the words on and off are booleans. */}}
{{- define "bellwether-operator.isOpenshift" -}}
{{- $is := toString .Values.openshift -}}
{{- if eq $is "auto" -}}
{{- $is = .Capabilities.APIVersions.Has "security.openshift.io/v1" | toString -}}
{{- end -}}
{{- if has $is (list "on" "true") }}true{{ end -}}
{{- end -}}

{{/*
Security context of a pod or a container. OpenShift assigns the ids of user and group from the range of the namespace, and
refuses pods that name others: they are left out there.

  include "bellwether-operator.securityContext" (list . .Values.securityContext)
*/}}
{{- define "bellwether-operator.securityContext" -}}
{{- $context := default dict (last .) -}}
{{- if include "bellwether-operator.isOpenshift" (first .) -}}
{{- $context = omit $context "runAsUser" "runAsGroup" "fsGroup" -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- define "bellwether-operator.container" -}}
# The image's own command ends as `PROGRAM supervise -- PROGRAM run`: process 1 is the parent that ends a crashed
# node's incarnation at once.
- name: {{ .Chart.Name }}
  image: {{ include "bellwether-operator.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # `kubectl describe pod` shows why it ended.
  terminationMessagePolicy: FallbackToLogsOnError
  {{- with .Values.operator.command }}
  command: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "bellwether-operator.lists" (list . .Values.operator.args .Values.extraArgs) | trim }}
  args: {{- . | nindent 4 }}
  {{- end }}
  env:
    {{- include "bellwether-operator.nodeEnv" . | trim | nindent 4 }}
  {{- with include "bellwether-operator.lists" (list . .Values.operator.envFrom .Values.extraEnvFrom) | trim }}
  envFrom: {{- . | nindent 4 }}
  {{- end }}
  ports:
    - {name: http, containerPort: {{ .Values.node.port }}, protocol: TCP}
    {{- with include "bellwether-operator.lists" (list . .Values.operator.ports) | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  startupProbe:
    httpGet: {path: /livez, port: http}
    {{- toYaml .Values.probes.startup | nindent 4 }}
  livenessProbe:
    httpGet: {path: /livez, port: http}
    {{- toYaml .Values.probes.liveness | nindent 4 }}
  readinessProbe:
    httpGet: {path: /readyz, port: http}
    {{- toYaml .Values.probes.readiness | nindent 4 }}
  resources: {{- toYaml .Values.resources | nindent 4 }}
  securityContext: {{- include "bellwether-operator.securityContext" (list . .Values.securityContext) | nindent 4 }}
  {{- $own := include "bellwether-operator.clusterMounts" . | trim }}
  {{- with list $own (include "bellwether-operator.lists" (list . .Values.operator.volumeMounts .Values.extraVolumeMounts) | trim) | compact }}
  volumeMounts: {{- join "\n" . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/* Variables of a node: its pod, its chart's own, its cluster, its settings, and those of the chart's user. */}}
{{- define "bellwether-operator.nodeEnv" -}}
{{- range $name, $path := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_UID" "metadata.uid" "POD_IP" "status.podIP" "POD_IPS" "status.podIPs" "NODE_NAME" "spec.nodeName" "POD_INDEX" "metadata.labels['apps.kubernetes.io/pod-index']" }}
- {name: {{ $name }}, valueFrom: {fieldRef: {fieldPath: {{ $path | quote }}}}}
{{- end }}
{{- if .Values.watch.allNamespaces }}
- {name: BELLWETHER_ALL_NAMESPACES, value: "true"}
{{- end }}
{{- with include "bellwether-operator.lists" (list . .Values.operator.env) | trim }}
{{ . }}
{{- end }}
{{ include "bellwether-operator.clusterEnv" . }}
{{- with .Values.node }}
- {name: BELLWETHER_LISTEN, value: {{ printf "%s:%d" .listenHost (int .port) | quote }}}
- {name: BELLWETHER_PROFILE, value: {{ .profile | quote }}}
- {name: BELLWETHER_TICK, value: {{ .tick | quote }}}
- {name: BELLWETHER_TICK_POLICY, value: {{ .tickPolicy | quote }}}
{{- with .ttl }}
- {name: BELLWETHER_TTL, value: {{ . | quote }}}
{{- end }}
- {name: BELLWETHER_GRACE, value: {{ printf "%ds" (int .graceSeconds) | quote }}}
- {name: BELLWETHER_LOG, value: {{ .log | quote }}}
- {name: BELLWETHER_LOG_FORMAT, value: {{ .logFormat | quote }}}
{{- if .allowActions }}
- {name: BELLWETHER_ALLOW_ACTIONS, value: "true"}
{{- end }}
{{- with .actionHosts }}
- {name: BELLWETHER_ACTION_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- end }}
{{- with include "bellwether-operator.lists" (list . .Values.extraEnv) | trim }}
{{ . }}
{{- end }}
{{- end -}}
