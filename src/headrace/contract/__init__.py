"""What follows from a pipeline file. Pure: no Spark, Airflow, Cassandra or Great Expectations is imported here."""
