"""The supervisor: observe, judge, decide, act."""
