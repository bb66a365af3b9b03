{{- define "kafka.domain" -}}
{{ .Release.Namespace }}.svc.cluster.local
{{- end }}

{{/* Voters of the controller quorum: the one node, or the three controllers. */}}
{{- define "kafka.voters" -}}
{{- if eq (int .Values.size) 1 -}}
0@kafka-0.kafka.{{ include "kafka.domain" . }}:9093
{{- else -}}
{{- $all := list -}}
{{- range $i := until 3 }}{{ $all = append $all (printf "%d@kafka-controller-%d.kafka-controller.%s:9093" (add 100 $i) $i (include "kafka.domain" $)) }}{{ end -}}
{{ join "," $all }}
{{- end -}}
{{- end }}

{{/* Argument: dict root, role (broker | controller), name, replicas, nodeOffset. */}}
{{- define "kafka.set" -}}
{{- $root := .root -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels:
    {{- include "headrace.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  serviceName: {{ .name }}
  replicas: {{ .replicas }}
  # A quorum forms only if nobody waits for the one before.
  podManagementPolicy: Parallel
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: {{ ternary "Retain" "Delete" $root.Values.keepVolumes }}
    whenScaled: Retain
  selector:
    matchLabels:
      {{- include "headrace.selector" $root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
  template:
    metadata:
      labels:
        {{- include "headrace.selector" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .role }}
      annotations:
        headrace/config: {{ include "kafka.config" $root | sha256sum }}
        {{- if ($root.Values.monitoring).enabled }}
        {{- include "headrace.scraped" $root | nindent 8 }}
        {{- end }}
        {{- with $root.Values.place.annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      {{- with $root.Values.imagePullSecret }}
      imagePullSecrets: [{name: {{ quote . }}}]
      {{- end }}
      enableServiceLinks: false # else KAFKA_PORT... variables appear
      {{- include "headrace.place" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
      securityContext:
        {{- include "headrace.podSecurity" 1000 | nindent 8 }}
      {{- if gt (int .replicas) 1 }}
      affinity:
        podAntiAffinity:
          {{- if eq $root.Values.antiAffinity "required" }}
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector: {matchLabels: {app.kubernetes.io/name: kafka, app.kubernetes.io/component: {{ .role }}}}
          {{- else }}
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector: {matchLabels: {app.kubernetes.io/name: kafka, app.kubernetes.io/component: {{ .role }}}}
          {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: topology.kubernetes.io/zone
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app.kubernetes.io/name: kafka, app.kubernetes.io/component: {{ .role }}}}
      {{- end }}
      {{- if ($root.Values.monitoring).enabled }}
      initContainers:
        - {{- include "headrace.agent" $root | nindent 10 }}
      {{- end }}
      containers:
        - name: kafka
          image: {{ include "headrace.image" $root.Values.image }}
          imagePullPolicy: IfNotPresent
          command: [bash, /etc/headrace/start.sh]
          env:
            - {name: KAFKA_HEAP_OPTS, value: "-Xms{{ $root.Values.heap }} -Xmx{{ $root.Values.heap }}"}
            - {name: LOG_DIR, value: /tmp} # the collector's log and server.log; the root is read-only
            - {name: ROLE, value: {{ if eq (int $root.Values.size) 1 }}"broker,controller"{{ else }}{{ .role }}{{ end }}}
            - {name: NODE_OFFSET, value: {{ .nodeOffset | quote }}}
            - {name: DOMAIN, value: {{ printf "%s.%s" .name (include "kafka.domain" $root) }}}
          ports:
            {{- if eq .role "broker" }}
            - {name: client, containerPort: 9092}
            - {name: internal, containerPort: 9094}
            {{- end }}
            {{- if or (eq .role "controller") (eq (int $root.Values.size) 1) }}
            - {name: controller, containerPort: 9093}
            {{- end }}
            {{- if ($root.Values.monitoring).enabled }}
            - {name: metrics, containerPort: 9404}
            {{- end }}
          {{- $port := ternary "client" "controller" (eq .role "broker") }}
          startupProbe: {tcpSocket: {port: {{ $port }}}, periodSeconds: 2, failureThreshold: 150}
          readinessProbe: {tcpSocket: {port: {{ $port }}}, periodSeconds: 5}
          livenessProbe: {tcpSocket: {port: {{ ternary "internal" "controller" (eq .role "broker") }}}, periodSeconds: 10, failureThreshold: 6}
          {{- if and (eq .role "broker") (gt (int $root.Values.size) 1) }}
          lifecycle: {preStop: {exec: {command: [bash, /etc/headrace/stop.sh]}}}
          {{- end }}
          resources:
            {{- toYaml $root.Values.resources | nindent 12 }}
          securityContext:
            {{- include "headrace.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: /var/lib/kafka/data}
            - {name: config, mountPath: /etc/headrace, readOnly: true}
            - {name: tls, mountPath: /etc/kafka/tls, readOnly: true}
            - {name: admin, mountPath: /etc/kafka/admin, readOnly: true}
            - {name: tmp, mountPath: /tmp}
            {{- if ($root.Values.monitoring).enabled }}
            - {name: agent, mountPath: /agent, readOnly: true}
            {{- end }}
      volumes:
        - {name: config, configMap: {name: kafka}}
        - {name: tls, secret: {secretName: kafka-tls, defaultMode: 0440}}
        - {name: admin, secret: {secretName: kafka-admin, defaultMode: 0440}}
        - {name: tmp, emptyDir: {sizeLimit: 512Mi}}
        {{- if ($root.Values.monitoring).enabled }}
        - {name: agent, emptyDir: {sizeLimit: 16Mi}}
        {{- end }}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $root.Values.storage.className }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ ternary $root.Values.storage.size "1Gi" (eq .role "broker") }}}}
{{- end }}

{{- define "kafka.config" -}}
{{- $size := int .Values.size -}}
{{- $min := ternary 1 2 (eq $size 1) -}}
controller.quorum.voters={{ include "kafka.voters" . }}
listener.security.protocol.map=CLIENT:SASL_SSL,CONTROLLER:SSL,INTERNAL:SSL
controller.listener.names=CONTROLLER
ssl.keystore.type=PEM
ssl.keystore.location=/etc/kafka/tls/server.pem
ssl.truststore.type=PEM
ssl.truststore.location=/etc/kafka/tls/ca.crt
listener.name.controller.ssl.client.auth=required
listener.name.internal.ssl.client.auth=required
listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.client.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
sasl.enabled.mechanisms=SCRAM-SHA-512
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# The nodes by their certificate, and the admin.
super.users=User:CN=kafka;User:admin
allow.everyone.if.no.acl.found=false
auto.create.topics.enable=false
unclean.leader.election.enable=false
log.dirs=/var/lib/kafka/data
# A record of 1 MB passes with its headers and its dead-letter envelope.
message.max.bytes=2097152
default.replication.factor={{ $size }}
min.insync.replicas={{ $min }}
offsets.topic.replication.factor={{ $size }}
offsets.topic.num.partitions={{ ternary 1 12 (eq $size 1) }}
transaction.state.log.replication.factor={{ $size }}
transaction.state.log.min.isr={{ $min }}
transaction.state.log.num.partitions={{ ternary 1 12 (eq $size 1) }}
share.coordinator.state.topic.replication.factor={{ $size }}
share.coordinator.state.topic.min.isr={{ $min }}
share.coordinator.state.topic.num.partitions={{ ternary 1 12 (eq $size 1) }}
group.initial.rebalance.delay.ms=0
{{- range $key, $value := .Values.config }}
{{ $key }}={{ $value }}
{{- end }}
{{- end }}

{{/* Refuses another size than the one that runs, or whose volumes were kept. `helm template` sees no cluster. */}}
{{- define "kafka.requireSize" -}}
{{- $there := 0 -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace "kafka" -}}
{{- if $set -}}
{{- $there = int $set.spec.replicas -}}
{{- else -}}
{{- range (lookup "v1" "PersistentVolumeClaim" .Release.Namespace "").items -}}
{{- if regexMatch "^data-kafka-[0-9]+$" .metadata.name }}{{ $there = add1 $there }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and (ne (int $there) 0) (ne (int $there) (int .Values.size)) -}}
{{- fail (printf "size is %d and this installation has %d: a change would form a new and empty quorum, which knows no topic. Set size back to %d; for another size make a second installation and move to it (docs/howto/deploy.md, Another size)" (int .Values.size) (int $there) (int $there)) -}}
{{- end -}}
{{- end }}
