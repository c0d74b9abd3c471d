{{/*
All objects of an operator. A chart that uses this library has one template file with one line:

  {{ include "bellwether-operator.all" . }}

The argument is always the root context of that chart: its name, values and files are used. A chart that replaces an
object includes the templates of the other objects one by one, and the validation before them.
*/}}
{{- define "bellwether-operator.all" -}}
{{- include "bellwether-operator.validate" . -}}
{{- $objects := list "crds" "serviceaccount" "role" "rolebinding" "clusterrole" "clusterrolebinding" "aggregatedroles" "headlessservice" "service" "leaderservice" "statefulset" "poddisruptionbudget" "networkpolicy" "servicemonitor" "podmonitor" "prometheusrule" "dashboards" "testaccount" "testrole" "testrolebinding" "testpod" "extraobjects" -}}
{{- range $objects }}
{{- with include (printf "bellwether-operator.%s" .) $ | trim }}
---
{{ . | trimPrefix "---" | trim }}
{{- end }}
{{- end }}
{{- end -}}
