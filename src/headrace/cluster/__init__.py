"""Programs that only run on Kubernetes: the jobs and the exporter of the charts."""
