{{/* Checks that the schema cannot express. Renders nothing. */}}
{{- define "bellwether-operator.validate" -}}
{{- if not ((.Values.etcd).timeout) }}
{{- fail (printf "\n\nChart.yaml of the chart %s: its dependency bellwether-operator brings no default values: add `import-values: [defaults]` to it.\n" .Chart.Name) }}
{{- end }}
{{- range $name, $_ := omit (index .Values "bellwether-operator") "exports" "global" }}
{{- fail (printf "\n\nbellwether-operator.%s: the values of the library stand at the top level of this chart's values: set %s instead.\n" $name $name) }}
{{- end }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,40}[a-z0-9])?$" .Chart.Name) }}
{{- fail (printf "\n\nChart.yaml: the name %q becomes the name of objects and of a container: use lower-case letters, digits and \"-\", begin with a letter and end with a letter or digit, at most 42 characters.\n" .Chart.Name) }}
{{- end }}
{{- if not (semverCompare ">=1.28.0-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "\n\nKubernetes %s is too old: the nodes get their ids from a label of their pods that exists since 1.28. Use Kubernetes 1.28 or later.\n" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- $store := include "bellwether-operator.store" . }}
{{- if and (eq $store "etcd") (not .Values.etcd.endpoints) }}
{{- fail "\n\nstore is etcd, but no etcd is named: set etcd.endpoints to the client URLs of yours, or leave both out to keep the cluster in Kubernetes.\n" }}
{{- end }}
{{- if and (eq $store "kubernetes") .Values.etcd.endpoints }}
{{- fail "\n\nstore is kubernetes, but etcd.endpoints is set: choose one, a cluster has one store.\n" }}
{{- end }}
{{- if and (eq $store "kubernetes") (or .Values.etcd.tls.existingSecret .Values.etcd.auth.user .Values.etcd.auth.existingSecret) }}
{{- fail "\n\netcd.tls or etcd.auth is set, but the cluster is kept in Kubernetes: set etcd.endpoints to use etcd, or leave them out.\n" }}
{{- end }}
{{- if and (eq $store "kubernetes") (eq .Values.node.profile "stable") }}
{{- fail "\n\nnode.profile stable exists only in etcd: in Kubernetes choose fast, default or calm.\n" }}
{{- end }}
{{- if and (eq $store "etcd") (eq .Values.node.profile "calm") }}
{{- fail "\n\nnode.profile calm exists only in Kubernetes: in etcd choose fast, default or stable.\n" }}
{{- end }}
{{- $cluster := include "bellwether-operator.clusterName" . }}
{{- if and (eq $store "kubernetes") (or (gt (len $cluster) 46) (not (regexMatch "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$" $cluster))) }}
{{- fail (printf "\n\nclusterName: the cluster %q is kept in a Lease of that name: use lower-case letters, digits, \"-\" and \".\", begin and end each part with a letter or digit, at most 46 characters.\n" $cluster) }}
{{- end }}
{{- with include "bellwether-operator.running" . | fromYaml }}
{{- if ne .store $store }}
{{- fail (printf "\n\nstore: the pods of this release keep the cluster in %s, and are to keep it in %s. Nodes of two stores do not see each other: while both run, two of them lead. %s\n\nThe cluster begins empty in the other store. To stay in the present one, set store and etcd.endpoints accordingly.\n" .store $store (include "bellwether-operator.endFirst" $)) }}
{{- end }}
{{- if and (eq $store "kubernetes") (ne (eq .profile "calm") (eq $.Values.node.profile "calm")) }}
{{- fail (printf "\n\nnode.profile: the pods of this release run with the profile %s, and are to run with %s. A cluster refuses nodes with calm beside nodes without it. %s\n" .profile $.Values.node.profile (include "bellwether-operator.endFirst" $)) }}
{{- end }}
{{- end }}
{{- with .Values.etcd }}
{{- $secure := 0 }}
{{- range .endpoints }}{{ if hasPrefix "https://" . }}{{ $secure = add1 $secure }}{{ end }}{{ end }}
{{- if and (gt $secure 0) (lt $secure (len .endpoints)) }}
{{- fail "\n\netcd.endpoints: all http:// or all https://; a plaintext one among the others would be told the password.\n" }}
{{- end }}
{{- if and .tls.existingSecret .endpoints (eq $secure 0) }}
{{- fail "\n\netcd.tls.existingSecret is set, but etcd.endpoints are http://: write https:// to use the certificates.\n" }}
{{- end }}
{{- if and .tls.certKey (not .tls.keyKey) }}
{{- fail "\n\netcd.tls.keyKey is empty, but etcd.tls.certKey is not: a certificate needs its key.\n" }}
{{- end }}
{{- if and .auth.user (not .auth.existingSecret) }}
{{- fail "\n\netcd.auth.user is set: name the Secret with its password in etcd.auth.existingSecret.\n" }}
{{- end }}
{{- if and .auth.existingSecret (not .auth.user) }}
{{- fail "\n\netcd.auth.existingSecret is set: name the user in etcd.auth.user.\n" }}
{{- end }}
{{- end }}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add (int .Values.node.graceSeconds) 5) }}
{{- fail (printf "\n\nterminationGracePeriodSeconds is %d, but leaving may take node.graceSeconds = %d and its end 5 more: the pod would be killed while it hands over. Set %d or more.\n" (int .Values.terminationGracePeriodSeconds) (int .Values.node.graceSeconds) (add (int .Values.node.graceSeconds) 5)) }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.rbac.create }}
{{- fail "\n\nserviceAccount.name is empty and serviceAccount.create is off: the roles would go to the namespace's default account. Name an account, or set rbac.create=false.\n" }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (.Values.metrics.podMonitor).enabled }}
{{- fail "\n\nmetrics.serviceMonitor and metrics.podMonitor are both enabled: Prometheus would scrape each node twice. Enable one of them.\n" }}
{{- end }}
{{- $own := list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "bellwether.dev/role" "bellwether.dev/service" }}
{{- range $name, $_ := .Values.podLabels }}
{{- if has $name $own }}
{{- fail (printf "\n\npodLabels: the chart sets the label %s itself, and selects pods by it: leave it out.\n" $name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.commonLabels }}
{{- if or (has $name $own) (has $name (list "app.kubernetes.io/managed-by" "app.kubernetes.io/version" "helm.sh/chart")) }}
{{- fail (printf "\n\ncommonLabels: the chart sets the label %s itself: leave it out.\n" $name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.commonAnnotations }}
{{- if or (hasPrefix "helm.sh/" $name) (hasPrefix "meta.helm.sh/" $name) }}
{{- fail (printf "\n\ncommonAnnotations: Helm gives the annotation %s a meaning for one object, and not for all of them: leave it out.\n" $name) }}
{{- end }}
{{- end }}
{{- if and (eq (toString (.Values.updateStrategy).type) "OnDelete") .Values.updateStrategy.rollingUpdate }}
{{- fail "\n\nupdateStrategy.rollingUpdate is set, but updateStrategy.type is OnDelete: leave rollingUpdate out, or set the type RollingUpdate.\n" }}
{{- end }}
{{- if and (eq (toString .Values.dnsPolicy) "None") (not (.Values.dnsConfig).nameservers) }}
{{- fail "\n\ndnsPolicy is None, but dnsConfig names no server: set dnsConfig.nameservers.\n" }}
{{- end }}
{{- end -}}
