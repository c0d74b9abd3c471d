{{/*
What this chart adds to the library. Set here and not in values.yaml: `helm upgrade --reuse-values` goes on with the values.yaml
of the release before, and a release that loses its selector or its forbidden networks would run other checks.
*/}}
{{- define "bellwether.additions" -}}
{{- $_ := set .Values.operator "crdsCommand" "crds" -}}
{{- $_ := set .Values.operator "env" (include "bellwether.env" .) -}}
{{- end -}}

{{- define "bellwether.env" -}}
{{- with .Values.watch.selector }}
- {name: BELLWETHER_SELECTOR, value: {{ . | quote }}}
{{- end }}
{{- with .Values.watch.denyNetworks }}
- {name: BELLWETHER_DENY_NETWORKS, value: {{ join "," . | quote }}}
{{- end }}
{{- end -}}
