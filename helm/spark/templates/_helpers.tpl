{{/* Labels that every object has; none of them changes with a release, so they may stand in selectors and claims. */}}
{{- define "spark.selector" -}}
app.kubernetes.io/name: spark
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "spark.labels" -}}
{{ include "spark.selector" . }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What Pod Security "restricted" asks of a pod; the argument is the image's user. */}}
{{- define "spark.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "spark.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "spark.image" -}}
{{- if eq (toString .tag) "latest" }}{{ fail "image.tag latest moves and cannot be rolled back to: name a version" }}{{ end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}
