{{/* Definitions in files/crds/ of the chart, as the list `items`. A file may hold several documents. */}}
{{- define "bellwether-operator.definitions" -}}
{{- $items := list -}}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" -}}
{{- range regexSplit "(?m)^---" ($.Files.Get $path) -1 -}}
{{- $crd := fromYaml . -}}
{{- if $crd -}}
{{- if ne (toString $crd.kind) "CustomResourceDefinition" -}}
{{- fail (printf "\n\n%s of the chart %s: found %s, but a file there holds CustomResourceDefinitions only: write it with `%s print crds`.\n" $path $.Chart.Name (default (default "a document without a kind" $crd.Error) $crd.kind) (include "bellwether-operator.program" $)) -}}
{{- end -}}
{{- $items = append $items $crd -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml (dict "items" $items) -}}
{{- end -}}

{{/*
Definitions that exist already and belong to somebody else: to kubectl, to another release, to one of another name. By
name: the owner, and whether they are those of this chart. Helm can neither import nor share them, so that they are left
as they are. Nothing where no cluster is asked (`helm template`).
*/}}
{{- define "bellwether-operator.foreignCrds" -}}
{{- $foreign := dict -}}
{{- range $crd := (include "bellwether-operator.definitions" . | fromYaml).items -}}
{{- $found := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $crd.metadata.name -}}
{{- if and $found (not (has $crd.metadata.name $.Values.crds.exclude)) -}}
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

{{/* In templates, since Helm never upgrades what is in crds/. */}}
{{- define "bellwether-operator.crds" -}}
{{- if .Values.crds.enabled }}
{{- $foreign := include "bellwether-operator.foreignCrds" . | fromYaml }}
{{- $known := list }}
{{- range $crd := (include "bellwether-operator.definitions" . | fromYaml).items }}
{{- $known = append $known $crd.metadata.name }}
{{- $isOurs := or $.Values.crds.adopt (not (hasKey $foreign $crd.metadata.name)) }}
{{- if and $isOurs (not (has $crd.metadata.name $.Values.crds.exclude)) }}
{{- $annotations := include "bellwether-operator.annotations" (list $ $crd.metadata.annotations $.Values.crds.annotations) | fromYaml }}
{{- if $.Values.crds.keep }}
{{- $_ := set $annotations "helm.sh/resource-policy" "keep" }}
{{- end }}
{{- $labels := include "bellwether-operator.common" $ | fromYaml }}
{{- $metadata := merge (dict "annotations" $annotations "labels" $labels) $crd.metadata }}
---
{{ toYaml (merge (dict "metadata" $metadata) $crd) }}
{{- end }}
{{- end }}
{{- range .Values.crds.exclude }}
{{- if not (has . $known) }}
{{- fail (printf "\n\ncrds.exclude: there is no definition %q; there are %s.\n" . (join ", " $known)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
