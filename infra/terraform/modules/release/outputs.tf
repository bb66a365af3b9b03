output "values" {
  description = "The values as the chart gets them, for tests."
  value       = [for document in coalesce(helm_release.this.values, []) : yamldecode(document)] # null after an import
}

output "namespace" {
  description = "Namespace of the release."
  value       = helm_release.this.namespace
}
