"""PyFlink's Table API: sums of each product in windows of 5 minutes. Runs in a virtual environment without Headrace.

    flink.py CONFIG      (a JSON file: jar, output, folder, client; only its owner can read it)

State is on the heap, a checkpoint comes every 5 seconds, and a window is written once, when it closes. The source ends
where the topic ends now, so each load is a job that finishes.
"""

import json
import sys
from pathlib import Path

from pyflink.table import EnvironmentSettings, TableEnvironment

SETTINGS = {
    "parallelism.default": "2",
    "state.backend.type": "hashmap",
    "execution.checkpointing.interval": "5 s",
    "pipeline.object-reuse": "true",
    "table.local-time-zone": "UTC",
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
}
SHADED = "org.apache.flink.kafka.shaded."


def quoted(text):
    """Return a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def options(values):
    """Return the WITH clause of a table."""
    return "WITH (" + ", ".join(f"{quoted(name)} = {quoted(value)}" for name, value in values.items()) + ")"


def statements(config, topic, number):
    """Yield the statements that create the tables of a load and run it."""
    client = {f"properties.{name}": value for name, value in config["client"].items()}
    login = "properties.sasl.jaas.config"
    if login in client:  # the connector's own copy of Kafka's classes
        client[login] = SHADED + client[login]
    source = client | {
        "connector": "kafka",
        "topic": topic,
        "scan.startup.mode": "earliest-offset",
        "scan.bounded.mode": "latest-offset",
        "properties.max.poll.records": "5000",
        "properties.isolation.level": "read_committed",
        "format": "json",
        "json.timestamp-format.standard": "SQL",
    }
    sink = client | {
        "connector": "kafka",
        "topic": config["output"],
        "key.format": "raw",
        "key.fields": "product_id",
        "value.format": "json",
        "value.json.timestamp-format.standard": "ISO-8601",
        "sink.delivery-guarantee": "at-least-once",
        "properties.compression.type": "lz4",
        "properties.batch.size": "262144",
        "properties.linger.ms": "100",
    }
    yield (
        f"CREATE TABLE sales{number} (product_id STRING, amount DECIMAL(12, 2), create_date TIMESTAMP(3), "
        f"WATERMARK FOR create_date AS create_date - INTERVAL '10' MINUTE) {options(source)}"
    )
    yield (
        f"CREATE TABLE sums{number} (window_start TIMESTAMP(3), window_end TIMESTAMP(3), product_id STRING, "
        f"total_amount DECIMAL(38, 2), sales BIGINT) {options(sink)}"
    )
    yield (
        f"INSERT INTO sums{number} SELECT window_start, window_end, product_id, SUM(amount), COUNT(*) FROM TABLE("
        f"TUMBLE(TABLE sales{number}, DESCRIPTOR(create_date), INTERVAL '5' MINUTES)) "
        "GROUP BY window_start, window_end, product_id"
    )


def main(path):
    """Run the loads that stdin names, TOPIC EVENTS a line, and write a report after each one."""
    config = json.loads(Path(path).read_text())
    environment = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    settings = SETTINGS | {
        "pipeline.jars": Path(config["jar"]).as_uri(),
        "execution.checkpointing.dir": Path(config["folder"]).as_uri(),
    }
    for name, value in settings.items():
        environment.get_config().set(name, value)
    for number, line in enumerate(sys.stdin):
        for statement in statements(config, line.split()[0], number):
            result = environment.execute_sql(statement)
        result.wait()
        print(json.dumps({"load": number}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
