# One node of everything, for a cluster on one machine such as kind: about 10 GB of memory with four drivers.
size = 1
images = {
  airflow = "localhost/headrace-airflow:0.1.0"
  spark   = "localhost/headrace-spark:0.1.0"
}
storage = {
  size   = "5Gi"
  source = { hostPath = { path = "/srv/headrace", type = "Directory" } }
}
stores = {
  kafka = {
    antiAffinity = "preferred" # there is only one machine
    heap         = "384m"
    resources    = { requests = { cpu = "100m", memory = "700Mi" } }
    storage      = { size = "2Gi" }
  }
  cassandra = {
    antiAffinity = "preferred"
    heap         = "512M"
    directMemory = "128M"
    resources    = { requests = { cpu = "100m", memory = "1200Mi" } }
    storage      = { size = "2Gi" }
  }
}
airflow = {
  postgres = { storage = { size = "1Gi" } }
  logs     = { size = "1Gi" }
  driver = { conf = {
    "spark.kubernetes.driver.request.cores"   = "100m"
    "spark.kubernetes.executor.request.cores" = "100m"
    # On few cores the JVM's second compiler dominates the first minute of a driver. Spark puts these options before those of every driver.
    "spark.driver.defaultJavaOptions"   = "-XX:TieredStopAtLevel=1"
    "spark.executor.defaultJavaOptions" = "-XX:TieredStopAtLevel=1"
  } }
}
