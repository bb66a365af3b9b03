"""Our own superuser in a new Cassandra, inside a cluster: `python -m headrace.cluster.cassandra_superuser`.

Until this has run, the default superuser can log in, through the flows that the network policies allow.
"""

from __future__ import annotations

import os
import sys

from headrace.access.bindings import CassandraBinding, binding_root, read_cassandra
from headrace.errors import HeadraceError, exit_with
from headrace.operations.provision.superuser import set_up
from headrace.operations.waiting import poll

_POLL_SECONDS = 2


def ensure(binding: CassandraBinding, replicas: int, seconds: float) -> None:
    """Make the binding's user the only superuser, with `replicas` copies of all roles. Raises HeadraceError after `seconds`."""
    if not poll(lambda: set_up(binding, replicas), seconds, _POLL_SECONDS):
        raise HeadraceError(
            f"Cassandra at {','.join(binding.contact_points)} accepted neither {binding.username} nor its first user in "
            f"{seconds:.0f} s. See the log of its pods. A volume of an earlier installation has that installation's password."
        )


def main() -> int:
    """Run with the mounted admin binding; HEADRACE_REPLICAS is the number of copies (1 or 3)."""
    ensure(read_cassandra(binding_root()), int(os.environ.get("HEADRACE_REPLICAS", "1")), 240)
    sys.stdout.write("the deployment's own superuser can log in, the default one is disabled\n")
    return 0


if __name__ == "__main__":
    exit_with(main)
