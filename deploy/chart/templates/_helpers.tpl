{{/* Labels of each object. */}}
{{- define "batchjob-operator.labels" -}}
app.kubernetes.io/name: batchjob-operator
app.kubernetes.io/part-of: batchjob-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Prefix of the names of what lies in no namespace: another one for each namespace that the operator is installed in. */}}
{{- define "batchjob-operator.clusterName" -}}
{{- if eq .Release.Namespace "batchjob-operator-system" -}}
batchjob-operator
{{- else -}}
{{ printf "batchjob-operator-%s" .Release.Namespace }}
{{- end }}
{{- end }}

{{/* The operator's account, as the subject of a binding. */}}
{{- define "batchjob-operator.subjects" -}}
subjects:
  - kind: ServiceAccount
    name: batchjob-operator
    namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "batchjob-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ printf "%s@%s" .repository .digest }}
{{- else -}}
{{ printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* What it may do with the objects of the namespaces that it looks after. */}}
{{- define "batchjob-operator.watchedRules" -}}
- apiGroups: [llmbatch.dev]
  resources: [batchjobs]
  # patch: the finalizer. create, delete: the BatchJobs of a CronBatchJob; delete: those whose ttlSecondsAfterFinished are over.
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [llmbatch.dev]
  resources: [cronbatchjobs]
  verbs: [get, list, watch]
- apiGroups: [llmbatch.dev]
  resources: [batchjobs/status, cronbatchjobs/status]
  verbs: [patch]
- apiGroups: [llmbatch.dev]
  resources: [batchproviders]
  # patch: the finalizer that keeps them while a batch may run in their account
  verbs: [get, list, watch, patch]
- apiGroups: [llmbatch.dev]
  resources: [batchproviders/status]
  verbs: [update]
# Never listed or watched: only what a BatchJob or BatchProvider of the same namespace names is read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Never listed or watched. Inputs and prices are read; outputs are made, written, and deleted where they are empty again.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, update, delete]
{{- end }}

{{/* What it may do with what lies in no namespace. */}}
{{- define "batchjob-operator.clusterRules" -}}
- apiGroups: [llmbatch.dev]
  resources: [clusterbatchproviders]
  verbs: [get, list, watch, patch]
- apiGroups: [llmbatch.dev]
  resources: [clusterbatchproviders/status]
  verbs: [update]
# kube-system's uid names the cluster; a namespace's labels say which ClusterBatchProviders are granted to it.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# patch: an event that repeats itself becomes a series
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
