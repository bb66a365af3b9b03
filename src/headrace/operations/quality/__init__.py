"""Expectations on every sink: plan what to read, read it, validate it, keep the results.

`duty` has the plain functions that DAGs and the command line call. Functions import Great Expectations and pandas: the import
takes seconds, which every DAG file would pay.
"""
