{{- define "bellwether-operator.poddisruptionbudget" -}}
{{- if .Values.podDisruptionBudget.enabled }}
# maxUnavailable, not minAvailable: that one would forbid every drain at one replica.
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "bellwether-operator.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  # A pod that is not Ready guards nothing.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "bellwether-operator.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{- define "bellwether-operator.networkpolicy" -}}
{{- if .Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "bellwether-operator.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list .) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  podSelector:
    matchLabels: {{- include "bellwether-operator.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {protocol: TCP, port: http}
      {{- with .Values.networkPolicy.ingressFrom }}
      from: {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- with .Values.networkPolicy.ingress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    # DNS. Its pods on OpenShift listen on another port than its Service, and the policy sees that of the pods.
    {{- $dns := list }}
    {{- range .Values.networkPolicy.dnsPorts | default (list 53) }}{{ $dns = append $dns (int .) }}{{ end }}
    {{- if include "bellwether-operator.isOpenshift" . }}{{ $dns = append $dns 5353 }}{{ end }}
    - ports:
        {{- range $port := uniq $dns }}
        {{- range list "UDP" "TCP" }}
        - {protocol: {{ . }}, port: {{ $port }}}
        {{- end }}
        {{- end }}
    # The API server is no pod: its ports are named, and its addresses only if they are known.
    - ports:
        {{- range .Values.networkPolicy.apiServerPorts }}
        - {protocol: TCP, port: {{ . }}}
        {{- end }}
      {{- with .Values.networkPolicy.apiServerTo }}
      to: {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- if eq (include "bellwether-operator.store" .) "etcd" }}
    {{- $ports := list }}
    {{- range .Values.etcd.endpoints }}
    {{- $host := get (urlParse .) "host" }}
    {{- $port := regexFind ":[0-9]+$" $host | trimPrefix ":" | default (ternary "443" "80" (hasPrefix "https://" .)) }}
    {{- $ports = append $ports (int $port) }}
    {{- end }}
    # etcd
    - ports:
        {{- range uniq $ports }}
        - {protocol: TCP, port: {{ . }}}
        {{- end }}
      {{- with .Values.networkPolicy.etcdTo }}
      to: {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
    {{- with .Values.networkPolicy.egress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
{{- end -}}
