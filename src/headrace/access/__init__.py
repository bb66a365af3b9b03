"""How to reach Kafka, Cassandra and an object store: bindings, credentials, trust stores."""
