{{/* More objects of the chart's user, which are templates too. */}}
{{- define "bellwether-operator.extraobjects" -}}
{{- range .Values.extraObjects }}
---
{{ tpl (ternary . (toYaml .) (kindIs "string" .)) $ }}
{{- end }}
{{- end -}}
