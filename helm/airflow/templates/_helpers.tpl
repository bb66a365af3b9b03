{{/* The non-secret part of Airflow's configuration; the secret part is the mounted airflow.cfg. */}}
{{- define "airflow.environment" -}}
AIRFLOW__CORE__EXECUTOR: LocalExecutor
AIRFLOW__CORE__PARALLELISM: {{ .Values.parallelism | quote }}
AIRFLOW__CORE__LOAD_EXAMPLES: "False"
AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION: "False"
AIRFLOW__CORE__AUTH_MANAGER: airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager
AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS: admin:admin
AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE: /opt/airflow/passwords.json
AIRFLOW__CORE__EXECUTION_API_SERVER_URL: http://airflow-api:8080{{ include "airflow.prefix" . }}/execution/
AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT: "120"
AIRFLOW__API__BASE_URL: {{ .Values.baseUrl }}
AIRFLOW__API__WORKERS: "1"
AIRFLOW__API__EXPOSE_CONFIG: "False"
AIRFLOW__SECRETS__BACKEND: airflow.secrets.local_filesystem.LocalFilesystemBackend
{{- if .Values.connectionsSecret }}
AIRFLOW__SECRETS__BACKEND_KWARGS: '{"connections_file_path": "/etc/airflow-connections/connections.json"}'
AIRFLOW_CONN_SPARK_BATCH: '{{ include "airflow.sparkConnection" . }}'
{{- else }}
AIRFLOW__SECRETS__BACKEND_KWARGS: '{"connections_file_path": "/etc/headrace/connections.json"}'
{{- end }}
AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT: "30"
AIRFLOW__LOGGING__BASE_LOG_FOLDER: /opt/airflow/logs
AIRFLOW__LOGGING__COLORED_CONSOLE_LOG: "False"
AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY: /opt/airflow/logs/dag_processor
AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK: "True"
AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD: "30"
AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT: "120"
# A scheduler that was killed took its tasks along (LocalExecutor), the supervisor's too: they run again soon, not after 5 minutes.
AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL: "20"
AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL: "30"
AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL: "120"
AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES: "1"
AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT: "180"
AIRFLOW__TRIGGERER__CAPACITY: "100"
AIRFLOW__USAGE_DATA_COLLECTION__ENABLED: "False"
HEADRACE_DEPLOYMENT: /etc/headrace/deployment.json
SERVICE_BINDING_ROOT: /bindings
HEADRACE_BATCH_SLOTS: {{ .Values.batchSlots | quote }}
HEADRACE_NOTIFY_CONNECTION: {{ .Values.notify.connection | quote }}
HEADRACE_NOTIFY_TO: {{ .Values.notify.to | quote }}
{{- end }}

{{/* The connection of finite Spark runs on one machine, which the DAGs name; here they are pods. It holds no secret. */}}
{{- define "airflow.sparkConnection" -}}
{"conn_type": "spark", "host": "local[2]", "extra": {"deploy-mode": "client", "spark-binary": "spark-submit"}}
{{- end }}

{{/* The path of baseUrl, such as /airflow, or nothing. */}}
{{- define "airflow.prefix" -}}
{{- regexReplaceAll "^https?://[^/]+" .Values.baseUrl "" -}}
{{- end }}

{{/* A driver runs for weeks: its event log is rolled, and the history server compacts rolled files. */}}
{{- define "airflow.eventLog" -}}
{{- with .Values.driver.eventLogDir }}
{{- if not $.Values.storage.sharedVolume }}
{{- fail "driver.eventLogDir is a folder of the shared volume: set storage.sharedVolume, or leave it empty with an object store" }}
{{- end }}
spark.eventLog.enabled: "true"
spark.eventLog.dir: file:{{ . }}
spark.eventLog.compress: "true"
spark.eventLog.rolling.enabled: "true"
spark.eventLog.rolling.maxFileSize: 32m
{{- end }}
{{- end }}

{{/* A driver mounts the object store's binding beside those of Kafka and Cassandra; its executors get the login with each task. */}}
{{- define "airflow.objectStore" -}}
{{- with .Values.storage.binding }}
{{- if $.Values.storage.sharedVolume }}
{{- fail "storage.binding is for an object store: name its URI in storage.root and set storage.sharedVolume to false, or leave the binding empty" }}
{{- end }}
spark.kubernetes.driver.secrets.{{ . }}: /bindings/object-store
{{- end }}
{{- end }}

{{/* Where batch jobs run, and their size. A pipeline's size has what it does not name from the defaults. */}}
{{- define "airflow.batch" -}}
{{- $size := pick .Values.batch "memory" "cores" -}}
{{- $pipelines := dict -}}
{{- range $name, $given := .Values.batch.pipelines }}{{ $_ := set $pipelines $name (merge (deepCopy $given) $size) }}{{ end -}}
{{- merge (dict "namespace" .Release.Namespace "template" "/etc/headrace/batch-pod.yaml" "pipelines" $pipelines) $size | toJson -}}
{{- end }}

{{/* The pod of a batch job; each run adds its name, labels, arguments, environment and memory (headrace.operations.batch.pod_runs). */}}
{{- define "airflow.batchPod" -}}
apiVersion: v1
kind: Pod
metadata:
  labels: # not those of Airflow's parts: no policy lets it reach the database
    app.kubernetes.io/name: airflow-batch
    app.kubernetes.io/component: batch
    app.kubernetes.io/part-of: headrace
  {{- with .Values.place.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 3600 # no task runs longer; a pod whose task is gone ends too
  serviceAccountName: airflow-none
  automountServiceAccountToken: false
  {{- with .Values.imagePullSecret }}
  imagePullSecrets: [{name: {{ quote . }}}]
  {{- end }}
  enableServiceLinks: false
  {{- include "headrace.place" . | nindent 2 }}
  terminationGracePeriodSeconds: 5 # it has nothing to finish: a run is done again from the start
  securityContext:
    {{- include "headrace.podSecurity" 185 | nindent 4 }}
  containers:
    - name: driver
      image: {{ include "headrace.image" .Values.sparkImage }}
      imagePullPolicy: IfNotPresent
      command: [/opt/entrypoint.sh, /usr/bin/tini, -g, --]
      resources:
        requests: {cpu: {{ .Values.batch.cpuRequest }}, ephemeral-storage: 256Mi}
        limits: {ephemeral-storage: 8Gi}
      securityContext:
        {{- include "headrace.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: bindings, mountPath: /bindings, readOnly: true}
        {{- if .Values.storage.sharedVolume }}
        - {name: data, mountPath: /data}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: {{ .Values.batch.scratchSize }}}}
    {{- include "airflow.bindings" . | nindent 4 }}
{{- end }}

{{- define "airflow.deployment" -}}
{{- dict
  "project" "/opt/headrace"
  "root" .Values.storage.root
  "bindings" "/bindings"
  "drivers" (dict
    "kind" "kubernetes"
    "namespace" .Values.sparkNamespace
    "image" (include "headrace.image" .Values.sparkImage)
    "driver_template" "/etc/spark-pod-templates/driver.yaml"
    "executor_template" "/etc/spark-pod-templates/executor.yaml"
    "grace_seconds" .Values.driver.graceSeconds
    "conf" (merge (deepCopy .Values.driver.conf) (include "airflow.eventLog" . | fromYaml) (include "airflow.objectStore" . | fromYaml))
    "pipeline_conf" (default dict .Values.driver.pipelineConf)
    "batch" (include "airflow.batch" . | fromJson))
  | toJson -}}
{{- end }}

{{/* One container of Airflow. Argument: dict root, name, args (list), resources, extra (more of the container). */}}
{{- define "airflow.container" -}}
{{- $root := .root -}}
name: {{ .name }}
image: {{ include "headrace.image" $root.Values.image }}
imagePullPolicy: IfNotPresent
command: [/usr/bin/tini, -g, --]
args: {{ toJson .args }}
envFrom: [{configMapRef: {name: airflow}}]
{{- with $root.Values.extraEnv }}
env: {{ toJson . }}
{{- end }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  {{- include "headrace.containerSecurity" $root | nindent 2 }}
volumeMounts:
  - {name: home, mountPath: /opt/airflow}
  - {name: secrets, mountPath: /opt/airflow/airflow.cfg, subPath: airflow.cfg, readOnly: true}
  - {name: logs, mountPath: /opt/airflow/logs}
  - {name: tmp, mountPath: /tmp}
  - {name: headrace, mountPath: /etc/headrace, readOnly: true}
  {{- if .operates }}
  - {name: pod-templates, mountPath: /etc/spark-pod-templates, readOnly: true}
  - {name: bindings, mountPath: /bindings, readOnly: true}
  {{- if $root.Values.storage.sharedVolume }}
  - {name: data, mountPath: /data}
  {{- end }}
  {{- end }}
  {{- if $root.Values.connectionsSecret }}
  - {name: connections, mountPath: /etc/airflow-connections, readOnly: true}
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if .passwords }}
  - {name: secrets, mountPath: /secrets/passwords.json, subPath: passwords.json, readOnly: true}
  {{- end }}
{{- end }}

{{- define "airflow.volumes" -}}
- {name: home, emptyDir: {sizeLimit: 512Mi}}
- {name: tmp, emptyDir: {sizeLimit: 6Gi}}
- {name: secrets, secret: {secretName: airflow, defaultMode: 0440}}
{{- if not .withoutLogs }}
- {name: logs, persistentVolumeClaim: {claimName: airflow-logs}}
{{- end }}
- {name: headrace, configMap: {name: airflow-headrace}}
{{- with .root.Values.connectionsSecret }}
- {name: connections, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- if .operates }}
- {name: pod-templates, configMap: {name: spark-pod-templates}}
{{ include "airflow.bindings" .root }}
{{- end }}
{{- end }}

{{/* The volumes of what operates as the admin: bindings, and the shared volume. */}}
{{- define "airflow.bindings" -}}
- name: bindings
  projected:
    defaultMode: 0440
    sources:
      - secret: {name: kafka-admin, items: {{ include "airflow.bindingItems" (dict "system" "kafka" "keys" (list "type" "bootstrapServers" "securityProtocol" "saslMechanism" "username" "password" "ca.crt")) }}}
      - secret: {name: cassandra-admin, items: {{ include "airflow.bindingItems" (dict "system" "cassandra" "keys" (list "type" "contactPoints" "port" "localDatacenter" "username" "password" "ca.crt")) }}}
      {{- with .Values.storage.binding }}
      - secret: {name: {{ . }}, items: {{ include "airflow.bindingItems" (dict "system" "object-store" "keys" (list "type" "endpoint" "region" "accessKey" "secretKey")) }}}
      {{- end }}
      {{- range $name, $secret := .Values.bindings }}
      # Optional, as each key of it is: what is missing is said where it is read.
      - secret: {name: {{ $secret }}, optional: true, items: {{ include "airflow.bindingItems" (dict "system" $name "keys" (list "driver" "host" "port" "database" "username" "password")) }}}
      {{- end }}
{{- if .Values.storage.sharedVolume }}
- {name: data, persistentVolumeClaim: {claimName: data}}
{{- end }}
{{- end }}

{{- define "airflow.bindingItems" -}}
{{- $system := .system -}}
[{{ range $i, $key := .keys }}{{ if $i }}, {{ end }}{key: {{ $key }}, path: {{ $system }}/{{ $key }}}{{ end }}]
{{- end }}

{{/* One part of Airflow. Argument: dict root, part, args, resources, probe (yaml text), account, operates, passwords. */}}
{{- define "airflow.deploymentOf" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: airflow-{{ .part }}
  labels:
    {{- include "headrace.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
spec:
  replicas: 1
  # Two schedulers of one kind would only fight over the same processor; the old one ends first.
  strategy: {type: Recreate}
  selector:
    matchLabels:
      {{- include "headrace.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .part }}
  template:
    metadata:
      labels:
        {{- include "headrace.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .part }}
        {{- if .account }}
        headrace/api-server: allowed
        {{- end }}
      annotations:
        # Not the deployment file: each task reads it again, and the kubelet changes it below running pods. A scheduler that
        # restarts takes the supervisor's tasks along, for a change that is one driver's.
        headrace/config: {{ include "airflow.environment" $root | sha256sum }}
        {{- with $root.Values.place.annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ .account | default "airflow-none" }}
      automountServiceAccountToken: {{ not (empty .account) }}
      {{- with $root.Values.imagePullSecret }}
      imagePullSecrets: [{name: {{ quote . }}}]
      {{- end }}
      enableServiceLinks: false # else AIRFLOW_PORT... variables appear
      {{- include "headrace.place" $root | nindent 6 }}
      terminationGracePeriodSeconds: 60
      securityContext:
        {{- include "headrace.podSecurity" 185 | nindent 8 }}
      initContainers:
        # Waits for the migration Job; nothing else orders the two, so --wait cannot hang on a hook.
        - {{- include "airflow.container" (dict "root" $root "name" "migrated" "args" (list "airflow" "db" "check-migrations" "--migration-wait-timeout" "300") "resources" (dict "requests" (dict "cpu" "100m" "memory" "256Mi" "ephemeral-storage" "64Mi") "limits" (dict "memory" "512Mi" "ephemeral-storage" "256Mi"))) | nindent 10 }}
      containers:
        - {{- include "airflow.container" (dict "root" $root "name" .part "args" .args "resources" .resources "operates" .operates "passwords" .passwords) | nindent 10 }}
          {{- .probe | nindent 10 }}
      volumes:
        {{- include "airflow.volumes" (dict "root" $root "operates" .operates) | nindent 8 }}
{{- end }}
