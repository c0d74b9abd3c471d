{{/* For NOTES.txt of a chart that uses this library. */}}
{{- define "bellwether-operator.notes" -}}
{{- $full := include "bellwether-operator.fullname" . -}}
{{- $cluster := include "bellwether-operator.clusterName" . -}}
{{- $store := include "bellwether-operator.store" . -}}
{{- $program := include "bellwether-operator.program" . -}}
{{- $crds := printf "%s %s" $program .Values.operator.crdsCommand -}}
{{ .Chart.Name }} {{ include "bellwether-operator.version" . }}: {{ .Values.replicaCount }} nodes of the cluster {{ $cluster }},
{{- if eq $store "kubernetes" }}
kept in Kubernetes: in Leases of the namespace {{ .Release.Namespace }}.
{{- else }}
kept in etcd: {{ join ", " .Values.etcd.endpoints }}.
{{- end }}

Who leads:
  kubectl get elections -n {{ .Release.Namespace }}
{{- if eq $store "kubernetes" }}
  kubectl get lease {{ $cluster }} -n {{ .Release.Namespace }}
{{- end }}
  kubectl exec -n {{ .Release.Namespace }} {{ $full }}-0 -- {{ $program }} status

The status page of the leader, on http://127.0.0.1:8080:
  kubectl port-forward -n {{ .Release.Namespace }} service/{{ $full }}-leader 8080:{{ .Values.node.port }}

Is it well:
  helm test {{ .Release.Name }} -n {{ .Release.Namespace }}
{{- if not .Values.crds.enabled }}

crds.enabled is off: apply the custom resource definitions yourself, of this very version:
  {{ $crds }} | kubectl apply --server-side -f -
{{- end }}
{{- if and .Values.crds.enabled (not .Values.crds.adopt) }}
{{- range $name, $it := include "bellwether-operator.foreignCrds" . | fromYaml }}

The definition {{ $name }} was there before ({{ $it.owner }}) and is left as it is.
{{- if not $it.same }} It is NOT that of this version. Type:
  {{ $crds }} | kubectl apply --server-side --force-conflicts -f -
{{- end }}
{{- end }}
{{- end }}
{{- if eq (int .Values.replicaCount) 1 }}

NOTE: one node. When it is lost there is nobody to take over; set replicaCount to 3.
{{- end }}
{{- if eq $store "kubernetes" }}

Before you remove this release let the nodes leave: `helm uninstall` takes their permissions away together with their pods.
  kubectl delete statefulset {{ $full }} -n {{ .Release.Namespace }} --cascade=foreground
The Lease {{ $cluster }} stays; a later release of this name goes on with it. To be rid of it and of all that nodes without permissions left:
  kubectl delete lease {{ $cluster }} -n {{ .Release.Namespace }}
{{- end }}
{{- end -}}
