"""A trust store for a Java that does not know this machine's certificates (the wheel brings its own)."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import PKCS12Certificate, serialize_java_truststore

from headrace.local.java import Java, wheel_home

_PASSWORD = "changeit"  # noqa: S105 - guards public certificates; Java 17 wants some password


def trust_store_options(work: Path, java: Java) -> list[str]:
    """Return the JVM options that make the wheel's Java trust what $SSL_CERT_FILE holds; none if neither applies."""
    bundle = os.environ.get("SSL_CERT_FILE")
    if not bundle or java.home != wheel_home() or not Path(bundle).is_file():
        return []
    store = work / "trust.p12"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old roots that every system still ships break a rule or two of RFC 5280
        certificates = x509.load_pem_x509_certificates(Path(bundle).read_bytes())
    named = [PKCS12Certificate(certificate, str(index).encode()) for index, certificate in enumerate(certificates)]
    store.write_bytes(serialize_java_truststore(named, BestAvailableEncryption(_PASSWORD.encode())))
    return [
        f"-Djavax.net.ssl.trustStore={store}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
        f"-Djavax.net.ssl.trustStorePassword={_PASSWORD}",
    ]
