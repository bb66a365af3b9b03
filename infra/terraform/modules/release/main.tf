locals {
  chart = abspath("${path.module}/../../../../helm/${var.name}")
  # The provider compares values alone: a chart of the same version whose files changed would not be applied.
  files       = sort(setunion(fileset(local.chart, "*.{yaml,json}"), fileset(local.chart, "templates/**"), fileset(local.chart, "files/**")))
  fingerprint = sha256(join("", [for file in local.files : "${file} ${filesha256("${local.chart}/${file}")}"]))
}

resource "helm_release" "this" {
  name          = var.name
  namespace     = var.namespace
  chart         = local.chart
  values        = [for each in concat(var.values, [{ global = { chartFiles = local.fingerprint } }]) : yamlencode(each)]
  timeout       = var.timeout
  wait          = true
  wait_for_jobs = true
  max_history   = 5
  # The provider does not record a release whose install failed: the next apply upgrades it in place, instead of ending with
  # "cannot re-use a name that is still in use". The version must then be stated, else a raised one is an inconsistent result.
  upgrade_install = true
  version         = yamldecode(file("${local.chart}/Chart.yaml")).version
}
