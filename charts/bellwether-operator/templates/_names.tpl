{{/* Name of the chart that uses this library, or its replacement. */}}
{{- define "bellwether-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
Full name of the release. It is cut so that the longest suffix ("-dashboards", a pod's revision) still fits into a label
of DNS, and so that a cluster in Kubernetes can have it as its name (46).
*/}}
{{- define "bellwether-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{/* Name for objects of the whole Kubernetes cluster: two releases of one name in two namespaces must not share them. */}}
{{- define "bellwether-operator.widename" -}}
{{- printf "%s-%s" .Release.Namespace (include "bellwether-operator.fullname" .) -}}
{{- end -}}

{{- define "bellwether-operator.clusterName" -}}
{{- default (include "bellwether-operator.fullname" .) .Values.clusterName -}}
{{- end -}}

{{/* Version of the operator: the chart's appVersion, or the chart's own version where it names none. */}}
{{- define "bellwether-operator.version" -}}
{{- default .Chart.Version .Chart.AppVersion -}}
{{- end -}}

{{/* Program in the image. */}}
{{- define "bellwether-operator.program" -}}
{{- default .Chart.Name .Values.operator.program -}}
{{- end -}}

{{- define "bellwether-operator.image" -}}
{{- $repository := default .Chart.Name .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default (include "bellwether-operator.version" .) .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Labels that select a pod of the release: never a version, since a selector cannot be changed. */}}
{{- define "bellwether-operator.selector" -}}
app.kubernetes.io/name: {{ include "bellwether-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end -}}

{{/* Labels of every object, beside those of its component. */}}
{{- define "bellwether-operator.common" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ include "bellwether-operator.version" . | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end -}}

{{- define "bellwether-operator.labels" -}}
{{ include "bellwether-operator.common" . }}
{{ include "bellwether-operator.selector" . }}
{{- end -}}

{{- define "bellwether-operator.testLabels" -}}
{{ include "bellwether-operator.common" . }}
app.kubernetes.io/name: {{ include "bellwether-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end -}}

{{- define "bellwether-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "bellwether-operator.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
Lists, one after the other, as YAML: those of the chart (`operator.…`) and those of its user (`extra…`). Each is a list, or
a text that is one; both may be templates. Nothing if all are empty.

  include "bellwether-operator.lists" (list $ .Values.operator.env .Values.extraEnv)
*/}}
{{- define "bellwether-operator.lists" -}}
{{- $root := first . -}}
{{- range $list := rest . }}
{{- if $list }}
{{- $text := ternary $list (toYaml $list) (kindIs "string" $list) }}
{{- if contains "{{" $text }}{{ $text = tpl $text $root }}{{ end }}
{{- with trim $text }}
{{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
