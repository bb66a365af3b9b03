"""The embedded platform: Kafka, Cassandra and Airflow as child processes on one machine, without containers."""
