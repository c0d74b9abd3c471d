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

{{/*
Name of an image in the registry `global.imageRegistry`, if that value is set. A registry that the name begins with is
replaced: the first part of a name is a registry if it has a "." or a ":", or is "localhost".

  include "bellwether-operator.fromRegistry" (list . "registry.example/rates:7")
*/}}
{{- define "bellwether-operator.fromRegistry" -}}
{{- $image := last . -}}
{{- with ((first .).Values.global).imageRegistry -}}
{{- $parts := splitn "/" 2 $image -}}
{{- if and $parts._1 (or (eq $parts._0 "localhost") (regexMatch "[.:]" $parts._0)) -}}
{{- $image = $parts._1 -}}
{{- end -}}
{{- $image = printf "%s/%s" (trimSuffix "/" .) $image -}}
{{- end -}}
{{- $image -}}
{{- end -}}

{{- define "bellwether-operator.image" -}}
{{- $repository := include "bellwether-operator.fromRegistry" (list . (default .Chart.Name .Values.image.repository)) -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ default (include "bellwether-operator.version" .) .Values.image.tag }}
{{- end -}}
{{- end -}}

{{/* Secrets for the registry, of all charts (`global`) and of this one. Nothing if there are none. */}}
{{- define "bellwether-operator.imagePullSecrets" -}}
{{- $all := list -}}
{{- range concat (default list (.Values.global).imagePullSecrets) (default list .Values.imagePullSecrets) -}}
{{- $all = append $all (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- with uniq $all }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* Labels that select a pod of the release: never a version or a label of the user, since a selector cannot be changed. */}}
{{- define "bellwether-operator.selector" -}}
app.kubernetes.io/name: {{ include "bellwether-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: node
{{- end -}}

{{/* Labels of every object, beside those of its component. The user's own (`commonLabels`) are among them. */}}
{{- define "bellwether-operator.common" -}}
{{- $labels := dict -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $labels "app.kubernetes.io/version" (include "bellwether-operator.version" .) -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" .Chart.Name -}}
{{- range $name, $value := .Values.commonLabels -}}{{- $_ := set $labels $name $value -}}{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{- define "bellwether-operator.labels" -}}
{{ include "bellwether-operator.common" . }}
{{ include "bellwether-operator.selector" . }}
{{- end -}}

{{/*
Labels of an object that has labels of its own, which win over the common ones.

  include "bellwether-operator.labelsWith" (list . .Values.metrics.serviceMonitor.labels)
*/}}
{{- define "bellwether-operator.labelsWith" -}}
{{- $labels := include "bellwether-operator.labels" (first .) | fromYaml -}}
{{- range $name, $value := last . -}}{{- $_ := set $labels $name $value -}}{{- end -}}
{{- toYaml $labels -}}
{{- end -}}

{{/*
Annotations of an object: those of every object (`commonAnnotations`) and its own, of which the last ones win. Nothing if
there are none.

  include "bellwether-operator.annotations" (list . .Values.service.annotations)
*/}}
{{- define "bellwether-operator.annotations" -}}
{{- $annotations := dict -}}
{{- range prepend (rest .) (first .).Values.commonAnnotations -}}
{{- range $name, $value := . -}}{{- $_ := set $annotations $name $value -}}{{- end -}}
{{- end -}}
{{- with $annotations }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "bellwether-operator.testLabels" -}}
{{ include "bellwether-operator.common" . }}
app.kubernetes.io/name: {{ include "bellwether-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
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
