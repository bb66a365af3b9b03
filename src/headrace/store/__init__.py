"""What lies below the storage root: checkpoints, ledgers, generations and snapshots. And the settings of Spark."""
