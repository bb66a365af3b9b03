"""Refresh a dimension (the users) from its directory: stage, suite, difference, writes with the extract's time, record.

`duty` has the functions that DAGs and the command line call, in that order. Only `apply` writes the live table. Columns
that a stream writes (last_login, last_device) are never part of a refresh.
"""

from headrace.operations.dimensions.load import load_users

__all__ = ["load_users"]
