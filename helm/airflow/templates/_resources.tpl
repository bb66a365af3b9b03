{{/* Requests and limits of the parts; the scheduler's hold the tasks. */}}
{{- define "airflow.defaultResources" -}}
apiServer: {requests: {cpu: 100m, memory: 512Mi, ephemeral-storage: 128Mi}, limits: {memory: 1Gi, ephemeral-storage: 1Gi}}
scheduler: {requests: {cpu: 250m, memory: 1Gi, ephemeral-storage: 256Mi}, limits: {memory: 4Gi, ephemeral-storage: 8Gi}}
dagProcessor: {requests: {cpu: 100m, memory: 384Mi, ephemeral-storage: 128Mi}, limits: {memory: 1Gi, ephemeral-storage: 1Gi}}
triggerer: {requests: {cpu: 50m, memory: 384Mi, ephemeral-storage: 128Mi}, limits: {memory: 768Mi, ephemeral-storage: 1Gi}}
upkeep: {requests: {cpu: 50m, memory: 256Mi, ephemeral-storage: 64Mi}, limits: {memory: 768Mi, ephemeral-storage: 256Mi}}
exporter: {requests: {cpu: 20m, memory: 192Mi, ephemeral-storage: 32Mi}, limits: {memory: 512Mi, ephemeral-storage: 128Mi}}
{{- end }}

{{/* Those of one part as JSON. Argument: dict root, part. */}}
{{- define "airflow.resources" -}}
{{- get (mergeOverwrite (include "airflow.defaultResources" . | fromYaml) (deepCopy .root.Values.resources)) .part | toJson -}}
{{- end }}
