{{/* The chart's name, or what is to be used instead. */}}
{{- define "bellwether.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
The release's full name. Cut so that the longest suffix ("-dashboards", a pod's revision) still fits into a label of
DNS, and the name is short enough for a cluster in Kubernetes (46).
*/}}
{{- define "bellwether.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{- define "bellwether.clusterName" -}}
{{- default (include "bellwether.fullname" .) .Values.clusterName -}}
{{- end -}}

{{/* What selects a pod of ours: never a version, since a selector cannot be changed. */}}
{{- define "bellwether.selector" -}}
app.kubernetes.io/name: {{ include "bellwether.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end -}}

{{/* Labels of every object, beside a component's own. */}}
{{- define "bellwether.common" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: bellwether
{{- end -}}

{{- define "bellwether.labels" -}}
{{ include "bellwether.common" . }}
{{ include "bellwether.selector" . }}
{{- end -}}

{{- define "bellwether.testLabels" -}}
{{ include "bellwether.common" . }}
app.kubernetes.io/name: {{ include "bellwether.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "bellwether.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bellwether.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
The definitions that exist already and belong to somebody else: to kubectl, to another release, to one of another
name. By name: the owner, and whether they are those of this chart. Helm can neither import nor share them, so that they
are left as they are. Nothing where no cluster is asked (`helm template`).
*/}}
{{- define "bellwether.foreignCrds" -}}
{{- $foreign := dict -}}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" -}}
{{- $crd := $.Files.Get $path | fromYaml -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $crd.metadata.name -}}
{{- if $found -}}
{{- $notes := default dict $found.metadata.annotations -}}
{{- $release := get $notes "meta.helm.sh/release-name" -}}
{{- $namespace := get $notes "meta.helm.sh/release-namespace" -}}
{{- if not (and (eq $release $.Release.Name) (eq $namespace $.Release.Namespace)) -}}
{{- $owner := ternary (printf "of the release %s in the namespace %s" $release $namespace) "made by kubectl" (ne $release "") -}}
{{- $same := eq (toJson (index $found.spec.versions 0).schema) (toJson (index $crd.spec.versions 0).schema) -}}
{{- $_ := set $foreign $crd.metadata.name (dict "owner" $owner "same" $same) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $foreign -}}
{{- end -}}

{{- define "bellwether.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Store and profile of the pods of this release that run. Nothing if no pods run, and where no cluster is asked
(`helm template`). Pods of charts that knew only etcd do not name their store.
*/}}
{{- define "bellwether.running" -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "bellwether.fullname" .) -}}
{{- if $set -}}
{{- $found := dict "store" "etcd" "profile" "default" -}}
{{- range $set.spec.template.spec.containers -}}
{{- range .env -}}
{{- if eq .name "BELLWETHER_STORE" -}}{{- $_ := set $found "store" (default "" .value) -}}{{- end -}}
{{- if eq .name "BELLWETHER_PROFILE" -}}{{- $_ := set $found "profile" (default "" .value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $pods := add (dig "replicas" 1 $set.spec | int) (dig "replicas" 0 (default dict $set.status) | int) -}}
{{- if gt $pods 0 -}}{{- toYaml $found -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* What to type before a change that pods must not go through one by one. */}}
{{- define "bellwether.endFirst" -}}
End those that run, which waits until their pods are gone, and repeat this command:

  kubectl delete statefulset {{ include "bellwether.fullname" . }} --namespace {{ .Release.Namespace }} --cascade=foreground
{{- end -}}

{{/* Where the cluster is kept: etcd or kubernetes. */}}
{{- define "bellwether.store" -}}
{{- default (ternary "etcd" "kubernetes" (not (empty .Values.etcd.endpoints))) .Values.store -}}
{{- end -}}

{{/* What every program of ours needs to know of the cluster and its store. */}}
{{- define "bellwether.clusterEnv" -}}
- {name: BELLWETHER_CLUSTER, value: {{ include "bellwether.clusterName" . | quote }}}
- {name: BELLWETHER_STORE, value: {{ include "bellwether.store" . | quote }}}
{{- if eq (include "bellwether.store" .) "etcd" }}
- {name: BELLWETHER_ETCD, value: {{ join "," .Values.etcd.endpoints | quote }}}
- {name: BELLWETHER_ETCD_TIMEOUT, value: {{ .Values.etcd.timeout | quote }}}
{{- with .Values.etcd.tls }}
{{- if .existingSecret }}
{{- if .caKey }}
- {name: BELLWETHER_ETCD_CA_FILE, value: {{ printf "/etc/bellwether/etcd-tls/%s" .caKey | quote }}}
{{- end }}
{{- if .certKey }}
- {name: BELLWETHER_ETCD_CERT_FILE, value: {{ printf "/etc/bellwether/etcd-tls/%s" .certKey | quote }}}
- {name: BELLWETHER_ETCD_KEY_FILE, value: {{ printf "/etc/bellwether/etcd-tls/%s" .keyKey | quote }}}
{{- end }}
{{- end }}
{{- if .serverName }}
- {name: BELLWETHER_ETCD_SERVER_NAME, value: {{ .serverName | quote }}}
{{- end }}
{{- end }}
{{- with .Values.etcd.auth }}
{{- if .user }}
- {name: BELLWETHER_ETCD_USER, value: {{ .user | quote }}}
- {name: BELLWETHER_ETCD_PASSWORD_FILE, value: {{ printf "/etc/bellwether/etcd-auth/%s" .passwordKey | quote }}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets come as files, which can change under a running process; an environment cannot. */}}
{{- define "bellwether.clusterMounts" -}}
{{- if .Values.etcd.tls.existingSecret }}
- {name: etcd-tls, mountPath: /etc/bellwether/etcd-tls, readOnly: true}
{{- end }}
{{- if .Values.etcd.auth.user }}
- {name: etcd-auth, mountPath: /etc/bellwether/etcd-auth, readOnly: true}
{{- end }}
{{- end -}}

{{- define "bellwether.clusterVolumes" -}}
{{- with .Values.etcd.tls.existingSecret }}
- name: etcd-tls
  secret: {secretName: {{ . | quote }}, defaultMode: 288}
{{- end }}
{{- if .Values.etcd.auth.user }}
- name: etcd-auth
  secret: {secretName: {{ .Values.etcd.auth.existingSecret | quote }}, defaultMode: 288}
{{- end }}
{{- end -}}

{{/* The restricted pod security standard. */}}
{{- define "bellwether.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "bellwether.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
