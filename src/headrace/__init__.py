"""Headrace: Kafka in, Spark speed and batch layers over one set of transforms, Cassandra to serve, Airflow to operate."""

__version__ = "0.1.0"
