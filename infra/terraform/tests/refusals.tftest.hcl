# Bad input is refused at plan, with the remedy in the sentence.
mock_provider "helm" {}
mock_provider "kubernetes" {}

variables {
  kubeconfig = "none"
  size       = 1
  images     = { airflow = "localhost/headrace-airflow:0.1.0", spark = "localhost/headrace-spark:0.1.0" }
  storage    = { source = { hostPath = { path = "/srv/headrace" } } }
}

run "two_nodes" {
  command = plan
  variables { size = 2 }
  expect_failures = [var.size]
}

run "a_moving_tag" {
  command = plan
  variables { images = { airflow = "localhost/headrace-airflow:latest", spark = "localhost/headrace-spark:0.1.0" } }
  expect_failures = [var.images]
}

run "no_tag" {
  command = plan
  variables { images = { airflow = "localhost/headrace-airflow", spark = "localhost/headrace-spark:0.1.0" } }
  expect_failures = [var.images]
}

run "a_pull_secret_in_a_namespace_that_is_not_there_yet" {
  command = plan
  variables { images = { airflow = "localhost/headrace-airflow:0.1.0", spark = "localhost/headrace-spark:0.1.0", pull_secret = "regcred" } }
  expect_failures = [var.create_namespace]
}

run "a_login_in_place_of_the_name_of_its_secret" {
  command = plan
  variables {
    create_namespace = false
    images           = { airflow = "localhost/headrace-airflow:0.1.0", spark = "localhost/headrace-spark:0.1.0", pull_secret = "{\"auths\": {}}" }
  }
  expect_failures = [var.images]
}

run "a_moving_tag_beside_a_pull_secret" {
  command = plan
  variables {
    create_namespace = false
    images           = { airflow = "localhost/headrace-airflow:latest", spark = "localhost/headrace-spark:0.1.0", pull_secret = "regcred" }
  }
  expect_failures = [var.images]
}

run "an_external_system_without_binding" {
  command = plan
  variables {
    create_namespace = false
    cassandra        = { mode = "external" }
  }
  expect_failures = [var.cassandra]
}

run "an_external_system_in_a_namespace_that_is_not_there_yet" {
  command = plan
  variables { kafka = { mode = "external", binding = "my-kafka" } }
  expect_failures = [var.create_namespace]
}

run "plain_text_for_the_bundled_systems" {
  command = plan
  variables { allow_plaintext = true }
  expect_failures = [var.allow_plaintext]
}

run "a_folder_without_volume" {
  command = plan
  variables { storage = {} }
  expect_failures = [var.storage]
}

run "an_object_store_that_hadoop_does_not_know" {
  command = plan
  variables { storage = { root = "gs://bucket/headrace" } }
  expect_failures = [var.storage]
}

run "an_object_stores_binding_for_a_folder" {
  command = plan
  variables { storage = { source = { hostPath = { path = "/srv/headrace" } }, binding = "my-store" } }
  expect_failures = [var.storage]
}

run "kept_volumes_in_a_namespace_that_is_destroyed" {
  command = plan
  variables { keep_volumes = true }
  expect_failures = [var.keep_volumes]
}

run "an_ingress_without_tls" {
  command = plan
  variables {
    airflow_url = "http://airflow.example.org"
    ingress     = { tls_secret = "tls", controller_namespace = "ingress" }
  }
  expect_failures = [var.ingress]
}

run "a_mode_that_is_none" {
  command = plan
  variables { kafka = { mode = "operator", binding = "x" } }
  expect_failures = [var.kafka]
}

run "a_producer_in_a_namespace_of_the_platform" {
  command = plan
  variables { producers = { webshop = { namespace = "headrace-kafka", topics = ["pos"] } } }
  expect_failures = [var.producers]
}

run "a_producer_without_topics" {
  command = plan
  variables { producers = { webshop = { namespace = "shop", topics = [] } } }
  expect_failures = [var.producers]
}

run "a_producer_whose_name_is_no_part_of_a_secrets" {
  command = plan
  variables { producers = { web_shop = { namespace = "shop", topics = ["pos"] } } }
  expect_failures = [var.producers]
}

run "a_history_server_without_a_shared_volume" {
  command = plan
  variables {
    storage        = { root = "s3a://bucket/headrace" }
    history_server = true
  }
  expect_failures = [var.history_server]
}

run "alerts_that_no_prometheus_may_read" {
  command = plan
  variables { monitoring = { enabled = true } }
  expect_failures = [var.monitoring]
}

run "a_misspelt_value_of_airflow" {
  command = plan
  variables { airflow = { paralelism = 4 } }
  expect_failures = [var.airflow]
}

run "a_misspelt_value_of_a_store" {
  command = plan
  variables { stores = { kafka = { heapsize = "1g" } } }
  expect_failures = [var.stores]
}

run "a_digest_that_is_none" {
  command = plan
  variables { images = { airflow = "localhost/headrace-airflow@sha256:abc", spark = "localhost/headrace-spark:0.1.0" } }
  expect_failures = [var.images]
}

run "a_moving_tag_with_a_digest" {
  command = plan
  variables { images = { airflow = "localhost/headrace-airflow:latest@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", spark = "localhost/headrace-spark:0.1.0" } }
  expect_failures = [var.images]
}
