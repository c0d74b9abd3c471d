{{/* Store of the cluster: etcd or kubernetes. */}}
{{- define "bellwether-operator.store" -}}
{{- default (ternary "etcd" "kubernetes" (not (empty .Values.etcd.endpoints))) .Values.store -}}
{{- end -}}

{{/*
Store and profile of the pods of this release that run. Nothing if no pods run, and where no cluster is asked
(`helm template`). Pods of charts that knew only etcd do not name their store.
*/}}
{{- define "bellwether-operator.running" -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace (include "bellwether-operator.fullname" .) -}}
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

{{/* Command to type before a change that pods must not go through one by one. */}}
{{- define "bellwether-operator.endFirst" -}}
End those that run, which waits until their pods are gone, and repeat this command:

  kubectl delete statefulset {{ include "bellwether-operator.fullname" . }} --namespace {{ .Release.Namespace }} --cascade=foreground
{{- end -}}

{{/* Variables that name the cluster and its store, for the nodes and for the test. */}}
{{- define "bellwether-operator.clusterEnv" -}}
- {name: BELLWETHER_CLUSTER, value: {{ include "bellwether-operator.clusterName" . | quote }}}
- {name: BELLWETHER_STORE, value: {{ include "bellwether-operator.store" . | quote }}}
{{- if eq (include "bellwether-operator.store" .) "etcd" }}
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
{{- define "bellwether-operator.clusterMounts" -}}
{{- if .Values.etcd.tls.existingSecret }}
- {name: etcd-tls, mountPath: /etc/bellwether/etcd-tls, readOnly: true}
{{- end }}
{{- if .Values.etcd.auth.user }}
- {name: etcd-auth, mountPath: /etc/bellwether/etcd-auth, readOnly: true}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.clusterVolumes" -}}
{{- with .Values.etcd.tls.existingSecret }}
- name: etcd-tls
  secret: {secretName: {{ . | quote }}, defaultMode: 288}
{{- end }}
{{- if .Values.etcd.auth.user }}
- name: etcd-auth
  secret: {secretName: {{ .Values.etcd.auth.existingSecret | quote }}, defaultMode: 288}
{{- end }}
{{- end -}}
