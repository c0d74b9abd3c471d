{{- define "bellwether-operator.servicePorts" -}}
- {name: http, port: {{ int .Values.node.port }}, targetPort: http, protocol: TCP}
{{- end -}}

{{- define "bellwether-operator.headlessservice" -}}
# Names for the pods, also before they are Ready.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "bellwether-operator.fullname" . }}-headless
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list . .Values.service.annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector: {{- include "bellwether-operator.selector" . | nindent 4 }}
  ports: {{- include "bellwether-operator.servicePorts" . | nindent 4 }}
{{- end -}}

{{- define "bellwether-operator.service" -}}
# Any node: the status page, and what Prometheus scrapes. Also of pods that are not Ready: in an outage no pod is, and
# then the page is wanted most.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "bellwether-operator.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labelsWith" (list . (dict "bellwether.dev/service" "nodes")) | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list . .Values.service.annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  publishNotReadyAddresses: true
  selector: {{- include "bellwether-operator.selector" . | nindent 4 }}
  ports: {{- include "bellwether-operator.servicePorts" . | nindent 4 }}
{{- end -}}

{{- define "bellwether-operator.leaderservice" -}}
# The leader: the label moves with the office.
apiVersion: v1
kind: Service
metadata:
  name: {{ include "bellwether-operator.fullname" . }}-leader
  namespace: {{ .Release.Namespace }}
  labels: {{- include "bellwether-operator.labels" . | nindent 4 }}
  {{- with include "bellwether-operator.annotations" (list . .Values.service.annotations) }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  selector:
    {{- include "bellwether-operator.selector" . | nindent 4 }}
    bellwether.dev/role: leader
  ports: {{- include "bellwether-operator.servicePorts" . | nindent 4 }}
{{- end -}}
