"""Finite Spark jobs: batch views, reconciliation, rebuild, restore drill and maintenance of Iceberg tables."""
