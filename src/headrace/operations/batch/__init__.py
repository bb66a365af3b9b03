"""Batch work for operators: plans, runs, reports and repairs."""
