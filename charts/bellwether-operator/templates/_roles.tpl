{{- define "bellwether-operator.serviceaccount" -}}
{{- if .Values.serviceAccount.create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "bellwether-operator.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list . .Values.serviceAccount.annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
# The pods ask for the token themselves.
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{/*
Rules of the nodes, from files/rbac.yaml of the chart: `own` for the Role, `wide` for the ClusterRole. Each is a list that
may be empty. A rule for the Lease of the cluster has the name $CLUSTER there.
*/}}
{{- define "bellwether-operator.rules" -}}
{{- $text := .Files.Get "files/rbac.yaml" -}}
{{- $write := printf "write it with `%s print rbac`, or set rbac.create=false and grant the rights yourself" (include "bellwether-operator.program" .) -}}
{{- if not $text -}}
{{- fail (printf "\n\nfiles/rbac.yaml of the chart %s: there is no such file: %s.\n" .Chart.Name $write) -}}
{{- end -}}
{{- $file := fromYaml $text -}}
{{- range $name, $rules := $file -}}
{{- if not (has $name (list "watched" "home" "kubernetesStore" "cluster")) -}}
{{- fail (printf "\n\nfiles/rbac.yaml of the chart %s: %q is not one of the lists watched, home, kubernetesStore, cluster: %s. %s\n" $.Chart.Name $name $write (default "" $file.Error)) -}}
{{- else if not (or (empty $rules) (kindIs "slice" $rules)) -}}
{{- fail (printf "\n\nfiles/rbac.yaml of the chart %s: %s is a %s, and must be a list of rules (apiGroups, resources, verbs): %s.\n" $.Chart.Name $name (kindOf $rules) $write) -}}
{{- end -}}
{{- end -}}
{{- $store := list -}}
{{- range default list $file.kubernetesStore -}}
{{- if eq (toJson .resourceNames) "[\"$CLUSTER\"]" -}}
{{- $store = append $store (set . "resourceNames" (list (include "bellwether-operator.clusterName" $))) -}}
{{- else -}}
{{- $store = append $store . -}}
{{- end -}}
{{- end -}}
{{- $watched := default list $file.watched -}}
{{- $own := default list $file.home -}}
{{- if eq (include "bellwether-operator.store" .) "kubernetes" -}}
{{- $own = concat $own $store -}}
{{- end -}}
{{- $wide := default list $file.cluster -}}
{{- if .Values.watch.allNamespaces -}}
{{- $wide = concat $watched $wide -}}
{{- else -}}
{{- $own = concat $own $watched -}}
{{- end -}}
{{- toYaml (dict "own" (uniq $own) "wide" (uniq $wide)) -}}
{{- end -}}

{{- define "bellwether-operator.role" -}}
{{- if .Values.rbac.create }}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "bellwether-operator.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
rules: {{- toYaml (include "bellwether-operator.rules" . | fromYaml).own | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.rolebinding" -}}
{{- if .Values.rbac.create }}
{{- $full := include "bellwether-operator.fullname" . }}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $full }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $full }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "bellwether-operator.serviceAccount" . }}, namespace: {{ .Release.Namespace }}}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.clusterrole" -}}
{{- if .Values.rbac.create }}
{{- with (include "bellwether-operator.rules" . | fromYaml).wide }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "bellwether-operator.widename" $ }}
  labels: {{- include "bellwether-operator.labels" $ | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list $) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
rules: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.clusterrolebinding" -}}
{{- if .Values.rbac.create }}
{{- if (include "bellwether-operator.rules" . | fromYaml).wide }}
{{- $wide := include "bellwether-operator.widename" . }}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $wide }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ $wide }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "bellwether-operator.serviceAccount" . }}, namespace: {{ .Release.Namespace }}}
{{- end }}
{{- end }}
{{- end -}}

{{/*
ClusterRoles that Kubernetes adds to its own roles view, edit and admin, for the kinds in files/crds/ of the chart. Kinds
without a namespace, and the Election, can be read only: an Election that is deleted loses the number of the last fence.
*/}}
{{- define "bellwether-operator.aggregatedroles" -}}
{{- if and .Values.rbac.create .Values.rbac.aggregate }}
{{- $read := dict }}
{{- $write := dict }}
{{- range $crd := (include "bellwether-operator.definitions" . | fromYaml).items }}
{{- with $crd.spec }}
{{- $_ := set $read .group (append (default list (get $read .group)) .names.plural) }}
{{- if and (eq .scope "Namespaced") (ne $crd.metadata.name "elections.bellwether.dev") }}
{{- $_ := set $write .group (append (default list (get $write .group)) .names.plural) }}
{{- end }}
{{- end }}
{{- end }}
{{- include "bellwether-operator.aggregatedrole" (list . "view" $read (list "get" "list" "watch") (list "view" "edit" "admin")) }}
{{- include "bellwether-operator.aggregatedrole" (list . "edit" $write (list "create" "update" "patch" "delete" "deletecollection") (list "edit" "admin")) }}
{{- end }}
{{- end -}}

{{/* One of them: (list $ NAME PLURALS-BY-GROUP VERBS ROLES). Nothing if there are no kinds. */}}
{{- define "bellwether-operator.aggregatedrole" -}}
{{- $root := first . -}}
{{- $verbs := index . 3 -}}
{{- $labels := dict -}}
{{- range last . -}}
{{- $_ := set $labels (printf "rbac.authorization.k8s.io/aggregate-to-%s" .) "true" -}}
{{- end -}}
{{- $name := index . 1 -}}
{{- with index . 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ include "bellwether-operator.widename" $root }}-{{ $name }}
  labels: {{- include "bellwether-operator.labelsWith" (list $root $labels) | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list $root) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
rules:
  {{- range $group, $plurals := . }}
  - apiGroups: [{{ $group | quote }}]
    resources: {{- toYaml $plurals | nindent 6 }}
    verbs: {{- toYaml $verbs | nindent 6 }}
  {{- end }}
{{- end }}
{{- end -}}
