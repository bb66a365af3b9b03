"""A Java trust store from PEM certificates, for the Cassandra connector and other Java clients that cannot read PEM.

python -m headrace.access.truststore CA_FILE STORE     # an executor's entry point (images/entrypoint.sh)
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from headrace.access.bindings import write_private

PASSWORD = "changeit"  # noqa: S105 - guards public certificates only; Java 17 requires a password


def write(path: Path, pem: bytes) -> None:
    """Write a PKCS 12 store with all certificates of `pem`, atomically: other processes may be reading the previous one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old root certificates that every system still ships violate parts of RFC 5280
        certificates = x509.load_pem_x509_certificates(pem)
    named = [PKCS12Certificate(certificate, str(index).encode()) for index, certificate in enumerate(certificates)]
    write_private(path, serialize_java_truststore(named, BestAvailableEncryption(PASSWORD.encode())))


if __name__ == "__main__":
    write(Path(sys.argv[2]), Path(sys.argv[1]).read_bytes())
