{{- define "cassandra.domain" -}}
cassandra.{{ .Release.Namespace }}.svc.cluster.local
{{- end }}

{{- define "cassandra.config" -}}
{{- $tls := dict "ssl_context_factory" (dict "class_name" "org.apache.cassandra.security.PEMBasedSslContextFactory") "keystore" "/etc/cassandra-tls/server.pem" "truststore" "/etc/cassandra-tls/ca.crt" "accepted_protocols" (list "TLSv1.3" "TLSv1.2") -}}
{{- $one := eq (int .Values.size) 1 -}}
{{- $all := dict
  "cluster_name" "headrace"
  "num_tokens" 16
  "partitioner" "org.apache.cassandra.dht.Murmur3Partitioner"
  "endpoint_snitch" "GossipingPropertyFileSnitch"
  "seed_provider" (list (dict "class_name" "org.apache.cassandra.locator.SimpleSeedProvider" "parameters" (list (dict "seeds" (printf "cassandra-0.%s" (include "cassandra.domain" .))))))
  "data_file_directories" (list "/var/lib/cassandra/data")
  "commitlog_directory" "/var/lib/cassandra/commitlog"
  "cdc_raw_directory" "/var/lib/cassandra/cdc_raw"
  "hints_directory" "/var/lib/cassandra/hints"
  "saved_caches_directory" "/var/lib/cassandra/saved_caches"
  "commitlog_sync" "batch"
  "disk_failure_policy" "stop"
  "commit_failure_policy" "stop"
  "authenticator" "PasswordAuthenticator"
  "authorizer" "CassandraAuthorizer"
  "role_manager" "CassandraRoleManager"
  "roles_validity" "2s"
  "permissions_validity" "2s"
  "credentials_validity" "2s"
  "user_defined_functions_enabled" false
  "materialized_views_enabled" false
  "auto_snapshot" true
  "hinted_handoff_enabled" (not $one)
  "storage_compatibility_mode" "NONE"
  "client_encryption_options" (merge (dict "enabled" true "optional" false "require_client_auth" false) $tls)
  "server_encryption_options" (merge (dict "internode_encryption" "all" "optional" false "require_client_auth" true) $tls)
-}}
{{- merge (deepCopy .Values.config) $all | toYaml -}}
{{- end }}

{{/* The pod that makes the superuser, and asks afterwards whether it logs in. */}}
{{- define "cassandra.superuser" -}}
automountServiceAccountToken: false
{{- with .Values.imagePullSecret }}
imagePullSecrets: [{name: {{ quote . }}}]
{{- end }}
enableServiceLinks: false
{{- include "headrace.place" . | nindent 0 }}
securityContext:
  {{- include "headrace.podSecurity" 185 | nindent 2 }}
containers:
  - name: superuser
    image: {{ include "headrace.image" .Values.toolImage }}
    imagePullPolicy: IfNotPresent
    command: [python3, -m, headrace.cluster.cassandra_superuser]
    env:
      - {name: SERVICE_BINDING_ROOT, value: /bindings}
      - {name: HEADRACE_REPLICAS, value: {{ .Values.size | quote }}}
    resources:
      requests: {cpu: 100m, memory: 128Mi, ephemeral-storage: 64Mi}
      limits: {memory: 256Mi, ephemeral-storage: 256Mi}
    securityContext:
      {{- include "headrace.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: binding, mountPath: /bindings/cassandra, readOnly: true}
      - {name: tmp, mountPath: /tmp}
volumes:
  - {name: binding, secret: {secretName: cassandra-admin, defaultMode: 0440}}
  - {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- end }}

{{/* Refuses another size than the one that runs, or whose volumes were kept. `helm template` sees no cluster. */}}
{{- define "cassandra.requireSize" -}}
{{- $there := 0 -}}
{{- $set := lookup "apps/v1" "StatefulSet" .Release.Namespace "cassandra" -}}
{{- if $set -}}
{{- $there = int $set.spec.replicas -}}
{{- else -}}
{{- range (lookup "v1" "PersistentVolumeClaim" .Release.Namespace "").items -}}
{{- if regexMatch "^data-cassandra-[0-9]+$" .metadata.name }}{{ $there = add1 $there }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if and (ne (int $there) 0) (ne (int $there) (int .Values.size)) -}}
{{- fail (printf "size is %d and this installation has %d: a change would leave rows on nodes that nobody asks, or nodes without them. Set size back to %d; for another size make a second installation and move to it (docs/howto/deploy.md, Another size)" (int .Values.size) (int $there) (int $there)) -}}
{{- end -}}
{{- end }}
