locals {
  namespaces = { for system in ["kafka", "cassandra", "spark", "airflow"] : system => "${var.prefix}-${system}" }
  images = { for name, image in var.images : name => {
    repository = regex("^(.+):[^:/]+$", image)[0]
    tag        = regex(":([^:/]+)$", image)[0]
  } if name != "pull_secret" }
  first = var.create_namespace ? kubernetes_namespace_v1.first[0].metadata[0].name : var.prefix
  # A folder is a volume that both sides mount; anything else is an object store's URI.
  shared_volume = startswith(var.storage.root, "/")
  event_logs    = "/data/spark-events"
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
    network = {
      apiServerCidr       = var.network.api_server_cidr
      externalEgress      = var.network.external_egress
      monitoringNamespace = var.network.monitoring_namespace
      ingressNamespace    = var.ingress == null ? "" : var.ingress.controller_namespace
    }
  }]
}

module "kafka" {
  source     = "./modules/release"
  count      = var.kafka.mode == "bundled" ? 1 : 0
  name       = "kafka"
  namespace  = local.namespaces.kafka
  timeout    = var.timeout
  values     = [{ size = var.size, image = local.images.kafka, imagePullSecret = var.images.pull_secret, keepVolumes = var.keep_volumes }, var.stores.kafka]
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
    postgres        = { mode = var.database.mode, image = local.images.postgres }
    storage         = { root = var.storage.root, sharedVolume = local.shared_volume, binding = var.storage.binding == "" ? "" : "object-store" }
    replicas        = var.size
    producers       = var.producers
    provision       = { consent = var.provision_consent }
    driver          = { eventLogDir = var.history_server ? local.event_logs : "" }
    baseUrl         = var.airflow_url
    ingress = {
      enabled   = var.ingress != null
      className = var.ingress == null ? "" : var.ingress.class_name
      host      = var.ingress == null ? "" : regex("^https?://([^/:]+)", var.airflow_url)[0]
      tlsSecret = var.ingress == null ? "" : var.ingress.tls_secret
    }
  }, var.airflow]
  # Its Job provisions topics and tables, so both systems come first, and its pods use the templates of spark.
  depends_on = [module.kafka, module.cassandra, module.spark]
}
