"""Expectations on every sink: plan what to read, read it, validate it, keep the results.

`tasks` has the plain functions that DAGs and the command line call. Great Expectations and pandas are imported inside functions:
their import takes seconds and would slow down every parse of a DAG file.
"""
