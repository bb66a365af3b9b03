output "values" {
  description = "The values as the chart gets them, for tests."
  value       = [for each in helm_release.this.values : yamldecode(each)]
}

output "namespace" {
  description = "Namespace of the release."
  value       = helm_release.this.namespace
}
