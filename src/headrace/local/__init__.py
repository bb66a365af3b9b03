"""The embedded platform: Kafka and Cassandra as child processes of one machine, without containers."""
