{{/*
`helm test`. Its account reads the Elections of the namespace and, if the cluster is kept in Kubernetes, its Lease; nothing
else. All of it exists for the time of the test only. One name for these and the pod, so that `helm test --filter name=`
takes or leaves them together.
*/}}
{{- define "bellwether-operator.testName" -}}
{{- include "bellwether-operator.fullname" . }}-check
{{- end -}}

{{/* Whether the test has an account of its own. Empty if accounts or roles are made by others. */}}
{{- define "bellwether-operator.hasTestAccount" -}}
{{- if and .Values.serviceAccount.create .Values.rbac.create }}true{{ end -}}
{{- end -}}

{{/* Metadata of the account, its role and their binding, which the pod needs first. */}}
{{- define "bellwether-operator.testMetadata" -}}
name: {{ include "bellwether-operator.testName" . }}
namespace: {{ .Release.Namespace }}
labels: {{- include "bellwether-operator.testLabels" . | nindent 2 }}
annotations: {{- include "bellwether-operator.testAnnotations" (list . (dict "helm.sh/hook-weight" "-1")) | nindent 2 }}
{{- end -}}

{{/* Annotations that make an object a part of `helm test`: (list $ MORE). */}}
{{- define "bellwether-operator.testAnnotations" -}}
{{- $hook := dict "helm.sh/hook" "test" "helm.sh/hook-delete-policy" "before-hook-creation,hook-succeeded" -}}
{{- include "bellwether-operator.annotations" (append . $hook) -}}
{{- end -}}

{{- define "bellwether-operator.testaccount" -}}
{{- if include "bellwether-operator.hasTestAccount" . }}
apiVersion: v1
kind: ServiceAccount
metadata: {{- include "bellwether-operator.testMetadata" . | nindent 2 }}
# The pod asks for the token itself.
automountServiceAccountToken: false
{{- end }}
{{- end -}}

{{- define "bellwether-operator.testrole" -}}
{{- if include "bellwether-operator.hasTestAccount" . }}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{- include "bellwether-operator.testMetadata" . | nindent 2 }}
rules:
  - apiGroups: [bellwether.dev]
    resources: [elections]
    verbs: [get]
  {{- if eq (include "bellwether-operator.store" .) "kubernetes" }}
  - apiGroups: [coordination.k8s.io]
    resources: [leases]
    resourceNames: [{{ include "bellwether-operator.clusterName" . | quote }}]
    verbs: [get, watch]
  {{- end }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.testrolebinding" -}}
{{- if include "bellwether-operator.hasTestAccount" . }}
{{- $name := include "bellwether-operator.testName" . }}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{- include "bellwether-operator.testMetadata" . | nindent 2 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $name }}}
subjects:
  - {kind: ServiceAccount, name: {{ $name }}, namespace: {{ .Release.Namespace }}}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.testpod" -}}
# `helm test`: is the cluster of this release well? It asks the store, the API server and its Election, who leads,
# and whether every shard has an owner.
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "bellwether-operator.testName" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.testLabels" . | nindent 4 }}
  annotations: {{- include "bellwether-operator.testAnnotations" (list .) | nindent 4 }}
spec:
  restartPolicy: Never
  {{- if include "bellwether-operator.hasTestAccount" . }}
  serviceAccountName: {{ include "bellwether-operator.testName" . }}
  {{- else }}
  # Accounts and roles are made by others: the pod has that of the nodes.
  serviceAccountName: {{ include "bellwether-operator.serviceAccount" . }}
  {{- end }}
  automountServiceAccountToken: true
  enableServiceLinks: false
  {{- include "bellwether-operator.podSettings" . | trim | nindent 2 }}
  containers:
    - name: check
      image: {{ include "bellwether-operator.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      terminationMessagePolicy: FallbackToLogsOnError
      command: [{{ include "bellwether-operator.program" . | quote }}, check]
      env:
        {{- include "bellwether-operator.clusterEnv" . | nindent 8 }}
        # Not only where a token is found: that it is not looked at must fail.
        - {name: BELLWETHER_KUBERNETES, value: "on"}
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {memory: 128Mi}
      securityContext: {{- include "bellwether-operator.securityContext" (list . .Values.securityContext) | nindent 8 }}
      {{- with include "bellwether-operator.clusterMounts" . | trim }}
      volumeMounts: {{- . | nindent 8 }}
      {{- end }}
  {{- with include "bellwether-operator.clusterVolumes" . | trim }}
  volumes: {{- . | nindent 4 }}
  {{- end }}
{{- end -}}
