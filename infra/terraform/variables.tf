variable "kubeconfig" {
  description = "Path of the kubeconfig of the cluster."
  type        = string
}

variable "kubeconfig_context" {
  description = "Context in the kubeconfig. null: the current context."
  type        = string
  default     = null
}

variable "prefix" {
  description = "Name of the first namespace and prefix of the others: <prefix>, <prefix>-kafka, ..."
  type        = string
  default     = "headrace"
  validation {
    condition     = can(regex("^[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?$", var.prefix))
    error_message = "prefix is part of namespace names: use lower-case letters, digits and dashes."
  }
}

variable "create_namespace" {
  description = "Create the first namespace. Set to false if it exists, for example for a pull secret or for binding Secrets of external systems."
  type        = bool
  default     = true
  validation {
    condition     = var.create_namespace == false || alltrue([for s in [var.kafka, var.cassandra, var.database] : s.mode == "bundled"])
    error_message = "The binding Secret of an external system must exist before the apply: create the namespace and the Secret, then set create_namespace = false."
  }
  validation {
    condition     = var.create_namespace == false || var.images.pull_secret == ""
    error_message = "The first pod already needs images.pull_secret, so it must exist before the apply: create the namespace and the Secret, then set create_namespace = false."
  }
}

variable "keep_volumes" {
  description = "Keep the volumes of Kafka, Cassandra and PostgreSQL, and the Secrets for them, when the platform is destroyed."
  type        = bool
  default     = false
  validation {
    condition     = !(var.keep_volumes && var.create_namespace)
    error_message = "Volumes are useless without the CA and passwords in the first namespace: create that namespace yourself and set create_namespace = false."
  }
}

variable "size" {
  description = "Number of nodes of Kafka and of Cassandra, and of replicas of all data: 1 or 3. Fixed for the lifetime of an installation: a change is refused at plan."
  type        = number
  validation {
    condition     = contains([1, 3], var.size)
    error_message = "size must be 1 (no redundancy) or 3. With two nodes, the loss of one costs writes or availability: choose 3."
  }
}

variable "images" {
  description = "Images as repository:tag, repository@digest or repository:tag@digest. images/build builds airflow and spark; kafka, cassandra and postgres are the official images. pull_secret names a Secret of type kubernetes.io/dockerconfigjson in the first namespace, with which nodes pull them."
  type = object({
    airflow     = string
    spark       = string
    kafka       = optional(string, "docker.io/apache/kafka:4.3.1")
    cassandra   = optional(string, "docker.io/library/cassandra:5.0.9")
    postgres    = optional(string, "docker.io/library/postgres:15")
    pull_secret = optional(string, "")
  })
  validation {
    condition     = alltrue([for name, image in var.images : can(regex("^[^@]+(:[A-Za-z0-9._-]+|(:[A-Za-z0-9._-]+)?@sha256:[0-9a-f]{64})$", image)) if name != "pull_secret"])
    error_message = "Each image needs a tag, a digest or both, as in registry.example.org/headrace-spark:1.2.0@sha256:..."
  }
  validation {
    condition     = alltrue([for name, image in var.images : !endswith(split("@", image)[0], ":latest") if name != "pull_secret"])
    error_message = "The tag latest moves, so a rollback to it is impossible: name a version."
  }
  validation {
    condition     = can(regex("^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)?$", var.images.pull_secret))
    error_message = "images.pull_secret must be the name of a Secret, not its content, which would be visible in the state: create one with kubectl create secret docker-registry."
  }
}

variable "kafka" {
  description = "bundled, or external with the name of your Secret with the admin's binding in the first namespace."
  type        = object({ mode = optional(string, "bundled"), binding = optional(string, "") })
  default     = {}
  validation {
    condition     = contains(["bundled", "external"], var.kafka.mode)
    error_message = "kafka.mode must be bundled or external."
  }
  validation {
    condition     = var.kafka.mode == "bundled" || var.kafka.binding != ""
    error_message = "An external Kafka needs your binding Secret: name it in kafka.binding (keys: docs/howto/deploy.md)."
  }
}

variable "cassandra" {
  description = "bundled, or external with the name of your Secret with the admin's binding in the first namespace."
  type        = object({ mode = optional(string, "bundled"), binding = optional(string, "") })
  default     = {}
  validation {
    condition     = contains(["bundled", "external"], var.cassandra.mode)
    error_message = "cassandra.mode must be bundled or external."
  }
  validation {
    condition     = var.cassandra.mode == "bundled" || var.cassandra.binding != ""
    error_message = "An external Cassandra needs your binding Secret: name it in cassandra.binding (keys: docs/howto/deploy.md)."
  }
}

variable "database" {
  description = "Airflow's metadata database: bundled, or external with the name of a Secret that has the address in its key sql-alchemy-conn."
  type        = object({ mode = optional(string, "bundled"), binding = optional(string, "") })
  default     = {}
  validation {
    condition     = contains(["bundled", "external"], var.database.mode) && (var.database.mode == "bundled" || var.database.binding != "")
    error_message = "database.mode must be bundled, or external with the name of a Secret in database.binding."
  }
}

variable "producers" {
  description = "Clients that write topics of pipelines: name => namespace (yours, must exist) and topics. Each producer gets a Kafka user and the Secret kafka-producer-<name>. Pods with the label headrace/producer=<name> may connect. A producer whose entry is removed loses its access."
  type        = map(object({ namespace = string, topics = list(string) }))
  default     = {}
  validation {
    condition     = alltrue([for name in keys(var.producers) : can(regex("^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$", name))])
    error_message = "A producer's name is part of a Secret's name: use at most 40 lower-case letters, digits and dashes."
  }
  validation {
    condition     = alltrue([for producer in var.producers : !contains(concat([var.prefix], values(local.namespaces)), producer.namespace)])
    error_message = "A producer needs an existing namespace that does not belong to the platform: name another namespace."
  }
  validation {
    condition     = alltrue([for producer in var.producers : length(producer.topics) > 0])
    error_message = "A producer without topics can do nothing: name the topics that it writes, or remove its entry to revoke its access."
  }
}

variable "provision_consent" {
  description = "Topics that the provision Job may adopt although it did not create them, or change in a way that may lose data (a shorter retention, more partitions). Remove a name after the apply: otherwise it also consents to the next such change."
  type        = list(string)
  default     = []
}

variable "allow_plaintext" {
  description = "Consent to send passwords to an external system in plain text."
  type        = bool
  default     = false
  validation {
    condition     = !var.allow_plaintext || var.kafka.mode == "external" || var.cassandra.mode == "external"
    error_message = "The bundled systems never use plain text: remove allow_plaintext."
  }
}

variable "storage" {
  description = "Root of checkpoints and archives. A folder needs the source of a volume that two namespaces can mount (nfs, csi ...). An object store needs your Secret with its binding in the first namespace."
  type = object({
    root    = optional(string, "/data")
    size    = optional(string, "10Gi")
    source  = optional(any, {})
    binding = optional(string, "")
  })
  validation {
    condition     = !startswith(var.storage.root, "/") || length(keys(var.storage.source)) > 0
    error_message = "storage.root is a folder, so storage.source must name the volume that Spark and Airflow share. Or use the URI of an object store as root."
  }
  validation {
    condition     = length(keys(var.storage.source)) <= 1
    error_message = "storage.source must be one volume source, such as { nfs = { server = ..., path = ... } }."
  }
  validation {
    condition     = startswith(var.storage.root, "/") ? var.storage.binding == "" : startswith(var.storage.root, "s3a://")
    error_message = "storage.root must be a folder or s3a://bucket/prefix. Set storage.binding only for s3a; it names your Secret with the login (keys: docs/howto/deploy.md)."
  }
}

variable "stores" {
  description = "Memory and disks of Kafka and Cassandra: heaps, requests and limits, with the names of the charts' values."
  type = object({
    kafka     = optional(any, {})
    cassandra = optional(any, {})
  })
  default = {}
  # Not an object type: Terraform drops attributes that a type does not name, so a misspelt one would silently do nothing.
  validation {
    condition     = length(setsubtract(keys(var.stores.kafka), ["heap", "resources", "storage", "antiAffinity", "place", "stopWaitSeconds", "terminationGracePeriodSeconds", "config"])) == 0
    error_message = "stores.kafka has an unknown key. Known keys: heap, resources, storage, antiAffinity, place, stopWaitSeconds, terminationGracePeriodSeconds, config."
  }
  validation {
    condition     = length(setsubtract(keys(var.stores.cassandra), ["heap", "directMemory", "resources", "storage", "antiAffinity", "place", "terminationGracePeriodSeconds", "config"])) == 0
    error_message = "stores.cassandra has an unknown key. Known keys: heap, directMemory, resources, storage, antiAffinity, place, terminationGracePeriodSeconds, config."
  }
}

variable "airflow" {
  description = "Additional values of chart airflow: resources, driver.conf, postgres.storage, notify, connectionsSecret, extraEnv ..."
  type        = any
  default     = {}
  validation {
    condition     = length(setsubtract(keys(var.airflow), ["resources", "driver", "postgres", "logs", "parallelism", "batchSlots", "batch", "upkeep", "notify", "connectionsSecret", "bindings", "extraEnv", "extraVolumes", "extraVolumeMounts", "place"])) == 0
    error_message = "airflow has an unknown key. Known keys: resources, driver, postgres, logs, parallelism, batchSlots, batch, upkeep, notify, connectionsSecret, bindings, extraEnv, extraVolumes, extraVolumeMounts, place."
  }
}

variable "airflow_url" {
  description = "Address of Airflow in the browser; the default is that of port-forward."
  type        = string
  default     = "http://localhost:8080"
  validation {
    condition     = can(regex("^https?://[^/]+(/.*[^/])?$", var.airflow_url))
    error_message = "airflow_url must begin with http:// or https:// and must not end with a slash."
  }
}

variable "ingress" {
  description = "Ingress of Airflow: class, Secret with the certificate, namespace of the controller. The host comes from airflow_url."
  type        = object({ class_name = optional(string, ""), tls_secret = string, controller_namespace = string })
  default     = null
  validation {
    condition     = var.ingress == null || startswith(var.airflow_url, "https://")
    error_message = "Airflow's password passes through the ingress, so airflow_url must begin with https://."
  }
}

variable "network" {
  description = "Addresses of the API server, additional egress [{cidr, port}], and the namespace of Prometheus."
  type = object({
    api_server_cidr      = optional(string, "0.0.0.0/0")
    external_egress      = optional(list(object({ cidr = string, port = number })), [])
    monitoring_namespace = optional(string, "")
  })
  default = {}
}

variable "monitoring" {
  description = "Metrics and alerts: rules and PodMonitors if the cluster has the Prometheus operator's kinds, else a ConfigMap and prometheus.io annotations. labels are the labels by which your Prometheus selects them."
  type = object({
    enabled     = optional(bool, false)
    runbook_url = optional(string, "https://github.com/example/headrace/blob/main/docs/runbooks")
    labels      = optional(map(string), {})
  })
  default = {}
  validation {
    condition     = !var.monitoring.enabled || var.network.monitoring_namespace != ""
    error_message = "Network policies block Prometheus unless its namespace is known: name it in network.monitoring_namespace."
  }
}

variable "placement" {
  description = "Where all pods may run, including drivers and executors, and their annotations. For one chart, use stores.kafka.place and the like."
  type = object({
    node_selector  = optional(map(string), {})
    tolerations    = optional(list(object({ key = optional(string), operator = optional(string), value = optional(string), effect = optional(string), tolerationSeconds = optional(number) })), [])
    priority_class = optional(string, "")
    annotations    = optional(map(string), {})
  })
  default = {}
}

variable "history_server" {
  description = "Run Spark's history server, and have drivers write rolling event logs for it to the shared volume."
  type        = bool
  default     = false
  validation {
    condition     = !var.history_server || startswith(var.storage.root, "/")
    error_message = "The history server reads event logs from the shared volume: make storage.root a folder, or leave history_server off."
  }
}

variable "pod_security_version" {
  description = "Version of the Pod Security standard that all namespaces enforce; not newer than the cluster."
  type        = string
  default     = "v1.34"
}

variable "timeout" {
  description = "Seconds that each chart may take until it is ready."
  type        = number
  default     = 600
}
