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

{{/* Pod template of one role; Spark adds image, command, resources, bindings. Argument: dict root, role. */}}
{{- define "spark.template" -}}
{{- $root := .root -}}
apiVersion: v1
kind: Pod
metadata:
  labels:
    app.kubernetes.io/part-of: headrace
    {{- if eq .role "driver" }}
    headrace/api-server: allowed
    {{- end }}
  {{- with merge (ternary (dict "prometheus.io/scrape" "true" "prometheus.io/port" "9108") dict (eq .role "driver")) (get $root.Values .role).annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  automountServiceAccountToken: {{ eq .role "driver" }}
  {{- with $root.Values.imagePullSecret }}
  imagePullSecrets: [{name: {{ quote . }}}]
  {{- end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
  securityContext:
    {{- include "spark.podSecurity" 185 | nindent 4 }}
  {{- with (get $root.Values .role).nodeSelector }}
  nodeSelector: {{ toJson . }}
  {{- end }}
  {{- with (get $root.Values .role).tolerations }}
  tolerations: {{ toJson . }}
  {{- end }}
  {{- with (get $root.Values .role).priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  containers:
    - name: {{ .role }}
      {{- if eq .role "driver" }}
      ports: [{name: metrics, containerPort: 9108}]
      # Kubernetes tells the JVM alone, whose shutdown hooks would break the running batch off: Python is told first, and
      # the container waits until both have ended.
      lifecycle:
        preStop:
          exec:
            command: [bash, -c, "pkill -TERM -x python3; while pgrep -x 'python3|java' >/dev/null; do sleep 0.1; done"]
      {{- end }}
      securityContext:
        {{- include "spark.containerSecurity" $root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        {{- if $root.Values.sharedVolume }}
        - {name: data, mountPath: /data}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: {{ $root.Values.scratchSize }}}}
    {{- if $root.Values.sharedVolume }}
    - {name: data, persistentVolumeClaim: {claimName: data}}
    {{- end }}
{{- end }}

{{- define "spark.image" -}}
{{- if eq (toString .tag) "latest" }}{{ fail "image.tag latest moves and cannot be rolled back to: name a version" }}{{ end -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end }}

{{/* Where a pod may run. */}}
{{- define "spark.place" -}}
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
