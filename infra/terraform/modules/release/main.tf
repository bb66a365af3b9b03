resource "helm_release" "this" {
  name          = var.name
  namespace     = var.namespace
  chart         = abspath("${path.module}/../../../../helm/${var.name}")
  values        = [for each in var.values : yamlencode(each)]
  timeout       = var.timeout
  wait          = true
  wait_for_jobs = true
  max_history   = 5
}
