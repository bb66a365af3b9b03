{{/* Labels that every object has; none of them changes with a release, so they may stand in selectors and claims. */}}
{{- define "base.selector" -}}
app.kubernetes.io/name: base
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "base.labels" -}}
{{ include "base.selector" . }}
app.kubernetes.io/part-of: headrace
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What Pod Security "restricted" asks of a pod; the argument is the image's user. */}}
{{- define "base.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "base.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "base.image" -}}
{{- if eq (toString .tag) "latest" }}{{ fail "image.tag latest moves and cannot be rolled back to: name a version" }}{{ end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Where a pod may run. */}}
{{- define "base.place" -}}
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
