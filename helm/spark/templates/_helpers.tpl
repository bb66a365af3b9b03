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
    {{- include "headrace.podSecurity" 185 | nindent 4 }}
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
        {{- include "headrace.containerSecurity" $root | nindent 8 }}
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

