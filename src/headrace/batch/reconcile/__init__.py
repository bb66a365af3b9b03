"""The reconciliation job: what the streams wrote against what the archive says they should have written."""
