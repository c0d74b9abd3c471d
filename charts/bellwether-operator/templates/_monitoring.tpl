{{/*
Metadata of a monitor: (list $ VALUES). In a namespace that other releases put theirs into as well, its name begins with the
namespace of the release.
*/}}
{{- define "bellwether-operator.monitorMetadata" -}}
{{- $root := first . -}}
{{- with last . -}}
{{- $isElsewhere := not (has (default "" .namespace) (list "" $root.Release.Namespace)) -}}
name: {{ include (ternary "bellwether-operator.widename" "bellwether-operator.fullname" $isElsewhere) $root }}
namespace: {{ default $root.Release.Namespace .namespace }}
labels: {{- include "bellwether-operator.labelsWith" (list $root .labels) | nindent 2 }}
{{- with include "bellwether-operator.annotations" (list $root) }}
annotations: {{- . | nindent 2 }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* What a ServiceMonitor and a PodMonitor have in common, beside their selectors: (list $ VALUES). */}}
{{- define "bellwether-operator.monitorSpec" -}}
{{- $root := first . -}}
{{- with last . -}}
{{- if not (has (default "" .namespace) (list "" $root.Release.Namespace)) }}
namespaceSelector: {matchNames: [{{ $root.Release.Namespace | quote }}]}
{{- end }}
{{- with .sampleLimit }}
sampleLimit: {{ int . }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "bellwether-operator.monitorEndpoint" -}}
port: http
path: /metrics
interval: {{ .interval }}
scrapeTimeout: {{ .scrapeTimeout }}
{{- if .honorLabels }}
honorLabels: true
{{- end }}
{{- with .relabelings }}
relabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.servicemonitor" -}}
{{- with .Values.metrics.serviceMonitor }}
{{- if .enabled }}
apiVersion: monitoring.coreos.com/v1
kind: ServiceMonitor
metadata: {{- include "bellwether-operator.monitorMetadata" (list $ .) | nindent 2 }}
spec:
  # Only the service of all nodes: a leader would be scraped twice by its own.
  selector:
    matchLabels:
      {{- include "bellwether-operator.selector" $ | nindent 6 }}
      bellwether.dev/service: nodes
  {{- with include "bellwether-operator.monitorSpec" (list $ .) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  endpoints:
    - {{- include "bellwether-operator.monitorEndpoint" . | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.podmonitor" -}}
{{- with .Values.metrics.podMonitor }}
{{- if .enabled }}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata: {{- include "bellwether-operator.monitorMetadata" (list $ .) | nindent 2 }}
spec:
  selector:
    matchLabels: {{- include "bellwether-operator.selector" $ | nindent 6 }}
  {{- with include "bellwether-operator.monitorSpec" (list $ .) | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  podMetricsEndpoints:
    - {{- include "bellwether-operator.monitorEndpoint" . | nindent 6 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Groups of alert rules in files/alerts.yaml and files/alerts/*.yaml of the chart, with the labels and the runbooks of the
values, and without the alerts that are disabled.
*/}}
{{- define "bellwether-operator.alertGroups" -}}
{{- $values := .Values.metrics.prometheusRule -}}
{{- $files := .Files.Glob "files/alerts{.yaml,/*.yaml}" -}}
{{- if not $files -}}
{{- fail (printf "\n\nmetrics.prometheusRule.enabled is on, but the chart %s has no files/alerts.yaml: write it with `%s print alerts`, or switch the value off.\n" .Chart.Name (include "bellwether-operator.program" .)) -}}
{{- end -}}
{{- $groups := list -}}
{{- $known := list -}}
{{- range $path, $_ := $files -}}
{{- $file := $.Files.Get $path | fromYaml -}}
{{- if not $file.groups -}}
{{- fail (printf "\n\n%s of the chart %s: the file has no `groups` of rules: %s\n" $path $.Chart.Name (default "write it as a rule file of Prometheus." $file.Error)) -}}
{{- end -}}
{{- range $group := $file.groups -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- if $rule.alert -}}
{{- $known = append $known $rule.alert -}}
{{- $_ := set $rule "labels" (merge (dict) $values.alertLabels (default (dict) $rule.labels)) -}}
{{- if and $values.runbooks (dig "annotations" "runbook_url" "" $rule) -}}
{{- $_ := set $rule.annotations "runbook_url" (printf "%s/%s" (trimSuffix "/" $values.runbooks) (base $rule.annotations.runbook_url)) -}}
{{- end -}}
{{- end -}}
{{- if not (has $rule.alert $values.disabled) -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- if $rules -}}
{{- $groups = append $groups (set $group "rules" $rules) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $values.disabled -}}
{{- if not (has . $known) -}}
{{- fail (printf "\n\nmetrics.prometheusRule.disabled: there is no alert %q; there are %s.\n" . (join ", " (uniq $known))) -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{- define "bellwether-operator.prometheusrule" -}}
{{- with .Values.metrics.prometheusRule }}
{{- if .enabled }}
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {{ include "bellwether-operator.fullname" $ }}
  namespace: {{ $.Release.Namespace }}
  labels: {{- include "bellwether-operator.labelsWith" (list $ .labels) | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list $) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  groups: {{- include "bellwether-operator.alertGroups" $ | nindent 4 }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The dashboards in files/dashboards/ of the chart. Grafana's sidecar writes the files of all ConfigMaps into one folder, so
that each key begins with the chart's name.
*/}}
{{- define "bellwether-operator.dashboards" -}}
{{- with .Values.metrics.dashboards }}
{{- if .enabled }}
{{- $data := dict }}
{{- range $path, $_ := $.Files.Glob "files/dashboards/*.json" }}
{{- $_ := set $data (printf "%s-%s" $.Chart.Name (base $path | trimPrefix (printf "%s-" $.Chart.Name))) ($.Files.Get $path) }}
{{- end }}
{{- if not $data }}
{{- fail (printf "\n\nmetrics.dashboards.enabled is on, but the chart %s has no files/dashboards/*.json: write one with `%s print dashboards`, or switch the value off.\n" $.Chart.Name (include "bellwether-operator.program" $)) }}
{{- end }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "bellwether-operator.fullname" $ }}-dashboards
  namespace: {{ default $.Release.Namespace .namespace }}
  labels: {{- include "bellwether-operator.labelsWith" (list $ .labels) | nindent 4 }}
  {{- $folder := dict "grafana_folder" (default $.Chart.Name .folder) }}
  annotations: {{- include "bellwether-operator.annotations" (list $ $folder .annotations) | nindent 4 }}
data: {{- toYaml $data | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
