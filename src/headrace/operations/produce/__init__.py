"""Send events to topics: generated ones, or a user's own from files."""

from headrace.operations.produce.accounts import user_directory
from headrace.operations.produce.mix import Mix, make_mix
from headrace.operations.produce.run import produce_file, produce_generated
from headrace.operations.produce.summary import Progress, Summary, UndeliveredError

__all__ = [
    "Mix",
    "Progress",
    "Summary",
    "UndeliveredError",
    "make_mix",
    "produce_file",
    "produce_generated",
    "user_directory",
]
