"""The pipeline contract and everything derived from it. Imports no Spark, Airflow, Cassandra or Great Expectations."""
