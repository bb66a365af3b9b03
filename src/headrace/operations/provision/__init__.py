"""Provisioning of Kafka and Cassandra from the pipeline files."""
