output "airflow_url" {
  description = "Address of Airflow; without an ingress, it works after the port-forward."
  value       = var.airflow_url
}

output "next" {
  description = "The next commands: reach Airflow, read the admin's password, list the drivers, run the tests."
  value = compact([
    var.ingress == null ? "kubectl -n ${local.namespaces.airflow} port-forward service/airflow-api 8080:8080" : "",
    "kubectl -n ${local.namespaces.airflow} get secret airflow -o jsonpath='{.data.admin-password}' | base64 -d",
    "kubectl -n ${local.namespaces.spark} get pods -l spark-role=driver",
    var.history_server ? "kubectl -n ${local.namespaces.spark} port-forward service/spark-history 18080:18080" : "",
    "helm test airflow -n ${local.namespaces.airflow}",
  ])
}

output "namespaces" {
  description = "The namespaces, by what runs in them."
  value       = merge(local.namespaces, { base = var.prefix })
}
