"""The upkeep of checkpoints: inspect, verify, snapshot, restore, prune, drill. On fsspec paths; nothing here needs Spark."""
