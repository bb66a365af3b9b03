# Every promise one test, with mocked providers: no cluster, no network.
mock_provider "helm" {}
mock_provider "kubernetes" {}

variables {
  kubeconfig = "none"
  size       = 1
  images     = { airflow = "localhost/headrace-airflow:0.1.0", spark = "localhost/headrace-spark:0.1.0" }
  storage    = { source = { hostPath = { path = "/srv/headrace" } } }
}

run "all_charts_in_their_namespaces" {
  command = apply
  assert {
    condition     = module.base.namespace == "headrace" && module.kafka[0].namespace == "headrace-kafka" && module.airflow.namespace == "headrace-airflow"
    error_message = "each chart has a namespace of its own"
  }
  assert {
    condition     = kubernetes_namespace_v1.first[0].metadata[0].labels["pod-security.kubernetes.io/enforce"] == "restricted"
    error_message = "the first namespace enforces restricted"
  }
}

run "size_is_that_of_both_stores_and_of_all_copies" {
  command   = apply
  state_key = "three" # an installation of its own: another size of the same one is refused
  variables { size = 3 }
  assert {
    condition     = module.kafka[0].values[0].size == 3 && module.cassandra[0].values[0].size == 3 && module.airflow.values[0].replicas == 3
    error_message = "one size for nodes and copies"
  }
}

run "images_are_split_into_repository_and_tag" {
  command = apply
  variables { images = { airflow = "registry.example.org:5000/team/headrace-airflow:1.2", spark = "localhost/headrace-spark:1.2" } }
  assert {
    condition     = module.airflow.values[0].image == { repository = "registry.example.org:5000/team/headrace-airflow", tag = "1.2" }
    error_message = "a registry's port is no tag"
  }
  assert {
    condition     = module.airflow.values[0].sparkImage.tag == "1.2" && module.base.values[0].image.tag == "1.2"
    error_message = "drivers and Jobs run the images that are named"
  }
}

run "a_pull_secret_is_named_to_every_chart_and_is_no_image" {
  command = apply
  variables {
    create_namespace = false
    images = {
      airflow     = "registry.example.org:5000/team/headrace-airflow:1.2"
      spark       = "localhost/headrace-spark:1.2"
      pull_secret = "regcred"
    }
  }
  assert {
    condition     = alltrue([for release in [module.base, module.kafka[0], module.cassandra[0], module.spark, module.airflow] : release.values[0].imagePullSecret == "regcred"])
    error_message = "every pod can be pulled"
  }
  assert {
    condition     = sort(keys(local.images)) == sort(["airflow", "spark", "kafka", "cassandra", "postgres"])
    error_message = "a Secret has no repository and no tag"
  }
}

run "no_pull_secret_unless_asked_for" {
  command = apply
  assert {
    condition     = alltrue([for release in [module.base, module.kafka[0], module.cassandra[0], module.spark, module.airflow] : release.values[0].imagePullSecret == ""])
    error_message = "a Secret that is not there would be a warning at each pod"
  }
}

run "an_external_kafka_has_no_pods_and_keeps_its_binding" {
  command = apply
  variables {
    create_namespace = false
    kafka            = { mode = "external", binding = "my-kafka" }
    network          = { external_egress = [{ cidr = "10.1.0.0/16", port = 9093 }] }
  }
  assert {
    condition     = length(module.kafka) == 0 && module.base.values[0].kafka.binding == "my-kafka"
    error_message = "external means the binding and no release"
  }
  assert {
    condition     = module.base.values[0].network.externalEgress[0].port == 9093
    error_message = "the way out is listed"
  }
}

run "an_object_store_needs_no_volume" {
  command = apply
  variables { storage = { root = "s3a://bucket/headrace", binding = "my-store" } }
  assert {
    condition     = module.spark.values[0].sharedVolume == false && module.airflow.values[0].storage.sharedVolume == false
    error_message = "no pod mounts a volume that is not there"
  }
  assert {
    condition     = module.base.values[0].storage.binding == "my-store" && module.airflow.values[0].storage.binding == "object-store"
    error_message = "the bootstrap Job copies the user's binding to where pods mount it"
  }
}

run "kept_volumes_keep_their_namespaces" {
  command = apply
  variables {
    create_namespace = false
    keep_volumes     = true
  }
  assert {
    condition     = module.base.values[0].keepNamespaces && module.kafka[0].values[0].keepVolumes && module.cassandra[0].values[0].keepVolumes
    error_message = "a claim goes with its namespace"
  }
  assert {
    condition     = length(kubernetes_namespace_v1.first) == 0
    error_message = "what Terraform does not make it does not destroy"
  }
}

run "an_ingress_has_the_host_of_the_url" {
  command = apply
  variables {
    airflow_url = "https://airflow.example.org/ops"
    ingress     = { tls_secret = "tls", controller_namespace = "ingress" }
  }
  assert {
    condition     = module.airflow.values[0].ingress.host == "airflow.example.org" && module.base.values[0].network.ingressNamespace == "ingress"
    error_message = "host and way in follow from the variables"
  }
  assert {
    condition     = !anytrue([for command in output.next : strcontains(command, "port-forward")])
    error_message = "behind an ingress nobody forwards ports"
  }
}

run "the_next_commands_name_the_namespaces" {
  command = apply
  variables { prefix = "lake" }
  assert {
    condition     = anytrue([for command in output.next : strcontains(command, "-n lake-airflow port-forward")])
    error_message = "the commands can be pasted"
  }
}

run "drivers_write_for_the_history_server_where_it_reads" {
  command = apply
  variables { history_server = true }
  assert {
    condition     = module.spark.values[0].historyServer.enabled && module.spark.values[0].historyServer.logDir == module.airflow.values[0].driver.eventLogDir
    error_message = "one folder for both"
  }
}

run "no_event_log_is_written_that_nobody_reads" {
  command = apply
  assert {
    condition     = !module.spark.values[0].historyServer.enabled && module.airflow.values[0].driver.eventLogDir == ""
    error_message = "without a history server nobody would clear event logs away"
  }
}

run "no_secret_is_among_the_values" {
  command = apply
  assert {
    condition     = !can(regex("(?i)\"[a-z_]*(password|token|secretKey|accessKey)\" *:", jsonencode([module.base.values, module.airflow.values, module.kafka[0].values])))
    error_message = "values show in state and plan"
  }
}

run "consent_is_given_to_the_provision_job" {
  command = apply
  variables { provision_consent = ["pos"] }
  assert {
    condition     = module.airflow.values[0].provision == { consent = ["pos"] }
    error_message = "the provision Job asks without it"
  }
}

run "producers_are_told_to_who_makes_their_bindings_and_to_who_gives_their_rights" {
  command = apply
  variables { producers = { webshop = { namespace = "shop", topics = ["pos"] } } }
  assert {
    condition     = alltrue([for release in [module.base, module.airflow] : release.values[0].producers == { webshop = { namespace = "shop", topics = ["pos"] } }])
    error_message = "one list for both charts"
  }
}

run "another_size_of_an_installation_is_refused_at_plan" {
  command = plan
  variables { size = 3 }
  expect_failures = [terraform_data.size]
}

run "an_image_may_be_named_by_its_digest_with_or_without_a_tag" {
  command = apply
  variables {
    images = {
      airflow = "registry.example.org:5000/headrace-airflow:1.2@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
      spark   = "registry.example.org:5000/headrace-spark@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
    }
  }
  assert {
    condition     = module.airflow.values[0].image == { repository = "registry.example.org:5000/headrace-airflow", tag = "1.2", digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" }
    error_message = "tag and digest are kept"
  }
  assert {
    condition     = module.airflow.values[0].sparkImage == { repository = "registry.example.org:5000/headrace-spark", digest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" }
    error_message = "a registry's port is no tag"
  }
}

run "monitoring_reaches_rules_exporter_and_network" {
  command = apply
  variables {
    monitoring = { enabled = true, runbook_url = "https://wiki.example.org/runbooks", labels = { release = "prometheus" } }
    network    = { monitoring_namespace = "monitoring" }
  }
  assert {
    condition     = module.spark.values[0].monitoring.enabled && module.airflow.values[0].monitoring.enabled && module.base.values[0].network.monitoringNamespace == "monitoring"
    error_message = "one variable for all three charts"
  }
  assert {
    condition     = module.spark.values[0].monitoring.runbookUrl == "https://wiki.example.org/runbooks" && module.spark.values[0].monitoring.labels.release == "prometheus"
    error_message = "alerts link to your pages and have your labels"
  }
}

run "placement_is_that_of_every_pod" {
  command = apply
  variables {
    placement = { node_selector = { pool = "data" }, tolerations = [{ key = "data", operator = "Exists" }], priority_class = "high" }
  }
  assert {
    condition     = alltrue([for release in [module.base, module.kafka[0], module.cassandra[0], module.spark, module.airflow] : release.values[0].place.nodeSelector.pool == "data" && release.values[0].place.priorityClassName == "high"])
    error_message = "every chart"
  }
  assert {
    condition     = module.spark.values[0].driver.tolerations == [{ key = "data", operator = "Exists" }] && module.spark.values[0].executor.nodeSelector.pool == "data"
    error_message = "drivers and executors too"
  }
}
