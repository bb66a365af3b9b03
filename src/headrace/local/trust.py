"""A trust store for a Java without this machine's certificates (the wheel brings its own certificates)."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.access import truststore
from headrace.local.java import Java, wheel_home


def trust_store_options(work: Path, java: Java) -> list[str]:
    """Return the JVM options that make the wheel's Java trust the certificates in $SSL_CERT_FILE; none if not needed."""
    bundle = os.environ.get("SSL_CERT_FILE")
    if not bundle or java.home != wheel_home() or not Path(bundle).is_file():
        return []
    store = work / "trust.p12"
    truststore.write(store, Path(bundle).read_bytes())
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={truststore.PASSWORD}",
    ]
