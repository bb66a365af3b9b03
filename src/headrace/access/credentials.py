"""Escapes passwords with any characters for formats with their own syntax (JAAS, Java properties, SCRAM, URLs)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from urllib.parse import quote

SCRAM_ITERATIONS = 8192

# Kafka reads JAAS text with Java's StreamTokenizer (org.apache.kafka.common.security.JaasConfig), which knows these
# escapes inside quotes; an unescaped line end ends the quoted text.
_JAAS_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_PROPERTY_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"})


def jaas(module: str, **options: str) -> str:
    """Return a value for Kafka's `sasl.jaas.config`: one required login module with these options.

    `module` is the class below `org.apache.kafka.common.security`, such as `scram.ScramLoginModule`.
    """
    texts = (f' {name}="{value.translate(_JAAS_ESCAPES)}"' for name, value in options.items())
    return f"org.apache.kafka.common.security.{module} required{''.join(texts)};"


def properties(values: Mapping[str, str]) -> str:
    """Return the text of a Java properties file: ASCII, one key a line (the format that `java.util.Properties.load` reads)."""
    return "".join(f"{key}={_property(value)}\n" for key, value in values.items())


def scram_record(user: str, password: str) -> str:
    """Return the argument of `kafka-storage format --add-scram`: the salted password, equal on every controller (KIP-900)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, SCRAM_ITERATIONS)
    texts = {"salt": base64.b64encode(salt).decode(), "saltedpassword": base64.b64encode(salted).decode()}
    quoted = ",".join(f'{key}="{value}"' for key, value in texts.items())
    return f"SCRAM-SHA-512=[name={user},iterations={SCRAM_ITERATIONS},{quoted}]"


def postgres_url(user: str, password: str, place: str) -> str:
    """Return the SQLAlchemy URL of a PostgreSQL database. `place` is `host:port/database`."""
    return f"postgresql+psycopg2://{quote(user, safe='')}:{quote(password, safe='')}@{place}"


def _property(value: str) -> str:
    escaped = value.translate(_PROPERTY_ESCAPES)
    if escaped.startswith(" "):
        escaped = f"\\{escaped}"
    return "".join(char if char.isascii() else _unicode(char) for char in escaped)


def _unicode(char: str) -> str:
    """Return a character as UTF-16 escapes, because the file is read as ISO 8859-1."""
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
