"""The process from which Spark's Python workers are forked (`spark.python.daemon.module`): Spark's own, made faster.

Before every task Spark's worker does two things that cost more than decoding a small batch, about 0.12 CPU seconds:

- `importlib.invalidate_caches()` rereads the directory of every archive on the path. Spark puts three there: pyspark
  and py4j, which are also installed as packages, and the jar of spark-core, which is the largest (63 ms per call). The
  archives are removed from the path before pyspark is imported, and their importers from the cache after all imports.
- `gc.collect()` walks all objects of all modules. Here everything is imported before the first fork and frozen: workers
  share it (less memory, no imports at their start), and a collection sees only objects made by a task.
"""

import gc
import sys

ARCHIVES = (".zip", ".jar")

sys.path[:] = [entry for entry in sys.path if not entry.endswith(ARCHIVES)]
sys.path_importer_cache.clear()

import pandas  # noqa: E402, F401 - a worker would import it for its first task
import pyarrow.compute  # noqa: E402, F401
import pyspark.sql.pandas.serializers  # noqa: E402, F401
import pyspark.worker  # noqa: E402, F401
from pyspark import daemon  # noqa: E402

import headrace.driver.decode  # noqa: E402, F401

for entry in [entry for entry in sys.path_importer_cache if entry.endswith(ARCHIVES)]:
    del sys.path_importer_cache[entry]

if __name__ == "__main__":
    gc.collect()
    gc.freeze()
    daemon.manager()
