"""The generated passwords of one local platform: created once, stored under `<home>/secrets`, readable only by the owner."""

from __future__ import annotations

import secrets
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from headrace.access.bindings import read_password, write_private
from headrace.errors import HeadraceError
from headrace.local.settings import Settings


def secret(name: str, settings: Settings, size: int = 32) -> str:
    """Return the named secret (URL-safe characters, `size` random bytes: 43 characters for 32), created on first use."""
    return _once(_folder(settings) / name, secrets.token_urlsafe(size))


def cluster_id(settings: Settings) -> str:
    """Return Kafka's cluster id (a UUID in 22 base64 characters without a leading dash), created on first use."""
    value = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return _once(_folder(settings) / "kafka-cluster-id", value.replace("-", "A"))


def require_kept(name: str, data: Path, settings: Settings) -> None:
    """Raise HeadraceError if a server has data but its password is missing."""
    path = _folder(settings) / f"{name}-admin"
    if data.exists() and not path.exists():
        raise HeadraceError(
            f"{name} has data in {data}, but its password {path} is missing. "
            "Put it back, or start with an empty platform: `headrace clean`."
        )


def _folder(settings: Settings) -> Path:
    return settings.home / "secrets"


def _once(path: Path, value: str) -> str:
    try:
        return read_password(path)
    except FileNotFoundError:
        write_private(path, value)
        return value
