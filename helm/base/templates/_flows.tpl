{{/*
The flows that are allowed; everything else is denied in both directions. A flow is an egress policy at its client and an
ingress policy at its server. Client and server: namespace and labels; `ports` empty: all.
*/}}
{{- define "base.flows" -}}
{{- $ns := .Values.namespaces -}}
{{- $spark := dict "app.kubernetes.io/part-of" "headrace" -}}
{{- $airflow := dict "app.kubernetes.io/name" "airflow" -}}
{{- $batch := dict "app.kubernetes.io/name" "airflow-batch" -}}
{{- $kafka := dict "app.kubernetes.io/name" "kafka" -}}
{{- $cassandra := dict "app.kubernetes.io/name" "cassandra" -}}
flows:
  {{- if eq .Values.kafka.mode "bundled" }}
  - {name: spark-to-kafka, from: {{ $ns.spark }}, fromLabels: {{ toJson $spark }}, to: {{ $ns.kafka }}, toLabels: {{ toJson $kafka }}, ports: [9092]}
  - {name: airflow-to-kafka, from: {{ $ns.airflow }}, fromLabels: {{ toJson $airflow }}, to: {{ $ns.kafka }}, toLabels: {{ toJson $kafka }}, ports: [9092]}
  - {name: batch-to-kafka, from: {{ $ns.airflow }}, fromLabels: {{ toJson $batch }}, to: {{ $ns.kafka }}, toLabels: {{ toJson $kafka }}, ports: [9092]}
  - {name: kafka-among-nodes, from: {{ $ns.kafka }}, fromLabels: {{ toJson $kafka }}, to: {{ $ns.kafka }}, toLabels: {{ toJson $kafka }}, ports: [9093, 9094]}
  {{- end }}
  {{- if eq .Values.cassandra.mode "bundled" }}
  - {name: spark-to-cassandra, from: {{ $ns.spark }}, fromLabels: {{ toJson $spark }}, to: {{ $ns.cassandra }}, toLabels: {{ toJson $cassandra }}, ports: [9042]}
  - {name: airflow-to-cassandra, from: {{ $ns.airflow }}, fromLabels: {{ toJson $airflow }}, to: {{ $ns.cassandra }}, toLabels: {{ toJson $cassandra }}, ports: [9042]}
  - {name: batch-to-cassandra, from: {{ $ns.airflow }}, fromLabels: {{ toJson $batch }}, to: {{ $ns.cassandra }}, toLabels: {{ toJson $cassandra }}, ports: [9042]}
  - {name: cassandra-among-nodes, from: {{ $ns.cassandra }}, fromLabels: {{ toJson $cassandra }}, to: {{ $ns.cassandra }}, toLabels: {{ toJson $cassandra }}, ports: [7000, 9042]}
  {{- end }}
  - {name: driver-and-executors, from: {{ $ns.spark }}, fromLabels: {{ toJson $spark }}, to: {{ $ns.spark }}, toLabels: {{ toJson $spark }}, ports: []}
  - {name: airflow-among-parts, from: {{ $ns.airflow }}, fromLabels: {{ toJson $airflow }}, to: {{ $ns.airflow }}, toLabels: {{ toJson $airflow }}, ports: [5432, 8080]}
{{- end }}
