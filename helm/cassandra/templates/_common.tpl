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
