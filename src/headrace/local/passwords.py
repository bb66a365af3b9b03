"""The generated passwords of one local platform: made once, kept under `<home>/secrets`, readable by their owner alone."""

from __future__ import annotations

import secrets
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from headrace.local.java import write_private
from headrace.local.settings import Settings


def secret(name: str, settings: Settings) -> str:
    """Return the named secret (43 URL-safe characters, 256 bits), made on first use."""
    return _once(settings.home / "secrets" / name, secrets.token_urlsafe(32))


def cluster_id(settings: Settings) -> str:
    """Return Kafka's cluster id (a UUID in 22 base64 characters that does not start with a dash), made on first use."""
    value = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return _once(settings.home / "secrets" / "kafka-cluster-id", value.replace("-", "A"))


def _once(path: Path, value: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        write_private(path, value)
        return value
