"""Refresh a dimension (the users) from its directory: stage, suite, difference, writes with the extract's time, record.

`duty` has the plain functions that DAGs and the command line call, in that order. The live table is written only by
`apply`; columns that a stream writes (last_login, last_device) are never part of anything here.
"""

from headrace.operations.users.load import load_users

__all__ = ["load_users"]
