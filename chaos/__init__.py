"""Chaos: a running platform under load, faults at random moments, and a checker that shares no code with the product.

`ground` starts the platform through its command line, `load` sends records, `faults` break things, `check` compares every
sink with the bytes in Kafka. `python -m chaos --help` shows the usage. Nothing here imports `headrace`.
"""
