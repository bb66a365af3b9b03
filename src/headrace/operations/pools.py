"""Airflow's pools: every deployment makes them before it runs a task (locally `headrace up`, else the chart's migrate Job)."""

BATCH_POOL = "batch"
"""Finite Spark runs and quality passes: each takes one slot, a gigabyte or more and a core or two of the scheduler's machine."""

BATCH_POOL_TEXT = "Finite Spark runs and quality passes that go at once"
