"""The embedded platform: Kafka and Cassandra as child processes on one machine, without containers."""
