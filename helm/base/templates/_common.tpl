{{/* The same file in every chart (tests/charts/test_every_chart.py): edit one copy and copy it to the others. */}}

{{/* Labels that every object has; none of them changes with a release, so they may stand in selectors and claims. */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "headrace.labels" -}}
{{ include "headrace.selector" . }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What Pod Security "restricted" asks of a pod; the argument is the image's user. */}}
{{- define "headrace.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "headrace.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "headrace.image" -}}
{{- if eq (toString .tag) "latest" }}{{ fail "image.tag latest moves and cannot be rolled back to: name a version" }}{{ end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Where a pod may run. */}}
{{- define "headrace.place" -}}
{{- with .Values.place.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.place.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.place.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Puts the metrics agent into the emptyDir `agent`. An image without it starts no pod less: then there are no metrics. */}}
{{- define "headrace.agent" -}}
name: agent
image: {{ include "headrace.image" .Values.toolImage }}
imagePullPolicy: IfNotPresent
command: [sh, -c, "cp /opt/agent/jmx_prometheus_javaagent.jar /agent/ || echo 'no agent in this image: no metrics'"]
resources:
  requests: {cpu: 10m, memory: 16Mi, ephemeral-storage: 16Mi}
  limits: {memory: 64Mi, ephemeral-storage: 32Mi}
securityContext:
  {{- include "headrace.containerSecurity" . | nindent 2 }}
volumeMounts: [{name: agent, mountPath: /agent}]
{{- end }}

{{- define "headrace.scraped" -}}
prometheus.io/scrape: "true"
prometheus.io/port: "9404"
{{- end }}
