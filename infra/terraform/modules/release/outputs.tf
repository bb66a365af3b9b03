output "values" {
  description = "The values as the chart gets them, for tests."
  value       = [for each in coalesce(helm_release.this.values, []) : yamldecode(each)] # null after an import
}

output "namespace" {
  description = "Namespace of the release."
  value       = helm_release.this.namespace
}
