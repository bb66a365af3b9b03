# Three nodes of Kafka and Cassandra; volumes outlive the platform. Replace the values that begin with your-.
size             = 3
create_namespace = false # create it yourself: kubectl create namespace headrace
keep_volumes     = true
images = {
  airflow = "your-registry.example.org/headrace-airflow:0.1.0"
  spark   = "your-registry.example.org/headrace-spark:0.1.0"
  # pull_secret = "your-secret" # if the registry needs a login: docs/howto/deploy.md
}
storage = {
  size   = "200Gi"
  source = { nfs = { server = "your-nfs.example.org", path = "/headrace" } }
}
stores = {
  kafka     = { heap = "2g", resources = { requests = { cpu = "1", memory = "4Gi" }, limits = { memory = "6Gi" } }, storage = { size = "200Gi" } }
  cassandra = { heap = "4096M", directMemory = "2048M", resources = { requests = { cpu = "2", memory = "8Gi" }, limits = { memory = "10Gi" } }, storage = { size = "500Gi" } }
}
airflow_url = "https://airflow.your-domain.example.org"
ingress     = { class_name = "nginx", tls_secret = "airflow-tls", controller_namespace = "ingress-nginx" }
