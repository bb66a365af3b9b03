"""The process that Spark's Python workers are forked from (`spark.python.daemon.module`): Spark's own, made cheap to use.

Spark's worker does two things before every task that cost more than decoding a small batch, about 0.12 CPU seconds:

- `importlib.invalidate_caches()` reads the directory of every zip archive on the path anew, and Spark puts pyspark and
  py4j there as archives although both are installed. Here the archives leave the path before pyspark is imported.
- `gc.collect()` walks all objects of all modules. Here everything is imported before the first fork and frozen: workers
  share it (less memory, no imports at their start), and a collection sees only what a task made.
"""

import gc
import sys

sys.path[:] = [entry for entry in sys.path if not entry.endswith(".zip")]
sys.path_importer_cache.clear()

import pandas  # noqa: E402, F401 - what a worker would import for its first task
import pyarrow.compute  # noqa: E402, F401
import pyspark.sql.pandas.serializers  # noqa: E402, F401
import pyspark.worker  # noqa: E402, F401
from pyspark import daemon  # noqa: E402

import headrace.streaming.decode  # noqa: E402, F401

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    daemon.manager()
