variable "name" {
  description = "Name of the release and of its chart under helm/."
  type        = string
}

variable "namespace" {
  description = "Namespace of the release."
  type        = string
}

variable "values" {
  description = "Values, later ones win. They show in state and plan: no secret may be among them."
  type        = any
}

variable "timeout" {
  description = "Seconds until everything is ready."
  type        = number
}
