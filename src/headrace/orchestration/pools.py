"""Airflow's pools: every deployment creates them before it runs a task (locally `headrace up`, else the chart's migrate Job)."""

BATCH_POOL = "batch"
"""Finite Spark runs and quality passes. Each takes one slot, at least a gigabyte, and one or two cores."""

BATCH_POOL_TEXT = "Concurrent finite Spark runs and quality passes"
