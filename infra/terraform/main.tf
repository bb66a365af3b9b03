locals {
  namespaces = { for system in ["kafka", "cassandra", "spark", "airflow"] : system => "${var.prefix}-${system}" }
  # repository[:tag][@digest], split for the charts. If there is a digest, it is pulled.
  named = { for name, image in var.images : name => {
    digest = try(regex("@(sha256:[0-9a-f]{64})$", image)[0], "")
    place  = split("@", image)[0]
    tag    = try(regex(":([^:/]+)$", split("@", image)[0])[0], "")
  } if name != "pull_secret" }
  images = { for name, image in local.named : name => merge(
    { repository = image.tag == "" ? image.place : trimsuffix(image.place, ":${image.tag}") },
    image.tag == "" ? {} : { tag = image.tag },
    image.digest == "" ? {} : { digest = image.digest },
  ) }
  place = {
    nodeSelector      = var.placement.node_selector
    tolerations       = [for toleration in var.placement.tolerations : { for key, value in toleration : key => value if value != null }]
    priorityClassName = var.placement.priority_class
    annotations       = var.placement.annotations
  }
  first = var.create_namespace ? kubernetes_namespace_v1.first[0].metadata[0].name : var.prefix
  # A folder is on the volume that Spark and Airflow mount. Anything else is the URI of an object store.
  shared_volume = startswith(var.storage.root, "/")
  event_logs    = "/data/spark-events"
  monitoring    = { enabled = var.monitoring.enabled, labels = var.monitoring.labels }
}

# Remembers the size of the first apply: another size would form a new, empty quorum of Kafka. The charts check the cluster too.
resource "terraform_data" "size" {
  input = var.size
  lifecycle {
    ignore_changes = [input]
    postcondition {
      condition     = self.output == var.size
      error_message = "This installation has size ${self.output}, which is fixed for its life. Set size back to ${self.output}; for another size make a second installation with another prefix and move to it (docs/howto/deploy.md, Another size)."
    }
  }
}

resource "kubernetes_namespace_v1" "first" {
  count = var.create_namespace ? 1 : 0
  metadata {
    name = var.prefix
    labels = merge(
      { "app.kubernetes.io/part-of" = "headrace" },
      { for mode in ["enforce", "warn", "audit"] : "pod-security.kubernetes.io/${mode}" => "restricted" },
      { for mode in ["enforce", "warn", "audit"] : "pod-security.kubernetes.io/${mode}-version" => var.pod_security_version },
    )
  }
}

module "base" {
  source    = "./modules/release"
  name      = "base"
  namespace = local.first
  timeout   = var.timeout
  values = [{
    namespaces         = local.namespaces
    keepNamespaces     = var.keep_volumes
    podSecurityVersion = var.pod_security_version
    image              = local.images.airflow
    imagePullSecret    = var.images.pull_secret
    kafka              = var.kafka
    producers          = var.producers
    cassandra          = var.cassandra
    database           = var.database
    allowPlaintext     = var.allow_plaintext
    storage            = var.storage
    place              = { for key, value in local.place : key => value if key != "annotations" }
    network = {
      apiServerCidr       = var.network.api_server_cidr
      externalEgress      = var.network.external_egress
      monitoringNamespace = var.network.monitoring_namespace
      ingressNamespace    = var.ingress == null ? "" : var.ingress.controller_namespace
    }
  }]
}

module "kafka" {
  source    = "./modules/release"
  count     = var.kafka.mode == "bundled" ? 1 : 0
  name      = "kafka"
  namespace = local.namespaces.kafka
  timeout   = var.timeout
  values = [{
    size            = var.size
    image           = local.images.kafka
    toolImage       = local.images.airflow
    imagePullSecret = var.images.pull_secret
    keepVolumes     = var.keep_volumes
    place           = local.place
    monitoring      = local.monitoring
  }, var.stores.kafka]
  depends_on = [module.base]
}

module "cassandra" {
  source    = "./modules/release"
  count     = var.cassandra.mode == "bundled" ? 1 : 0
  name      = "cassandra"
  namespace = local.namespaces.cassandra
  timeout   = var.timeout
  values = [{
    size            = var.size
    image           = local.images.cassandra
    toolImage       = local.images.airflow
    imagePullSecret = var.images.pull_secret
    keepVolumes     = var.keep_volumes
    place           = local.place
    monitoring      = local.monitoring
  }, var.stores.cassandra]
  depends_on = [module.base]
}

module "spark" {
  source    = "./modules/release"
  name      = "spark"
  namespace = local.namespaces.spark
  timeout   = var.timeout
  values = [{
    airflowNamespace = local.namespaces.airflow
    sharedVolume     = local.shared_volume
    toolImage        = local.images.airflow
    imagePullSecret  = var.images.pull_secret
    historyServer    = { enabled = var.history_server, logDir = local.event_logs }
    driver           = local.place
    executor         = local.place
    place            = local.place
    monitoring = {
      enabled          = var.monitoring.enabled
      runbookUrl       = var.monitoring.runbook_url
      volumeNamespaces = "${var.prefix}-.+"
      labels           = var.monitoring.labels
    }
  }]
  depends_on = [module.base]
}

module "airflow" {
  source    = "./modules/release"
  name      = "airflow"
  namespace = local.namespaces.airflow
  timeout   = var.timeout
  values = [{
    sparkNamespace  = local.namespaces.spark
    image           = local.images.airflow
    sparkImage      = local.images.spark
    imagePullSecret = var.images.pull_secret
    postgres        = { mode = var.database.mode, image = local.images.postgres, keepVolume = var.keep_volumes }
    storage         = { root = var.storage.root, sharedVolume = local.shared_volume, binding = var.storage.binding == "" ? "" : "object-store" }
    replicas        = var.size
    producers       = var.producers
    provision       = { consent = var.provision_consent }
    driver          = { eventLogDir = var.history_server ? local.event_logs : "" }
    baseUrl         = var.airflow_url
    place           = local.place
    monitoring      = local.monitoring
    ingress = {
      enabled   = var.ingress != null
      className = var.ingress == null ? "" : var.ingress.class_name
      host      = var.ingress == null ? "" : regex("^https?://([^/:]+)", var.airflow_url)[0]
      tlsSecret = var.ingress == null ? "" : var.ingress.tls_secret
    }
  }, var.airflow]
  # Its Job provisions topics and tables, so it needs both systems. Its pods use the templates of chart spark.
  depends_on = [module.kafka, module.cassandra, module.spark]
}
