locals {
  chart = abspath("${path.module}/../../../../helm/${var.name}")
  # The provider compares only values: it would not apply a chart of the same version with changed files.
  files       = sort(setunion(fileset(local.chart, "*.{yaml,json}"), fileset(local.chart, "templates/**"), fileset(local.chart, "files/**")))
  fingerprint = sha256(join("", [for file in local.files : "${file} ${filesha256("${local.chart}/${file}")}"]))
}

resource "helm_release" "this" {
  name          = var.name
  namespace     = var.namespace
  chart         = local.chart
  values        = [for document in concat(var.values, [{ global = { chartFiles = local.fingerprint } }]) : yamlencode(document)]
  timeout       = var.timeout
  wait          = true
  wait_for_jobs = true
  max_history   = 5
  # The provider does not record a release whose install failed. With this, the next apply upgrades it in place instead of failing with
  # "cannot re-use a name that is still in use". The version must be set: otherwise a raised version is an inconsistent result.
  upgrade_install = true
  version         = yamldecode(file("${local.chart}/Chart.yaml")).version
}
