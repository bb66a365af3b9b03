"""Expectations on every sink: plan what is read, read it, validate it, keep what was found.

`duty` has the plain functions that DAGs and the command line call. Great Expectations and pandas are imported inside
functions only: they take seconds, which every DAG file would pay.
"""
