"""The Secrets of the cluster that this pod runs in, for the bootstrap Job."""

from __future__ import annotations

import base64
from dataclasses import dataclass

OPAQUE, PULL_SECRET = "Opaque", "kubernetes.io/dockerconfigjson"  # types of Secrets

Content = dict[str, str]


@dataclass(frozen=True)
class ClusterSecrets:
    """The Secrets of the cluster that this pod runs in."""

    def read(self, namespace: str, name: str) -> Content | None:
        """Return a Secret's content, or None."""
        secret = _secret(namespace, name)
        return secret and {key: base64.b64decode(value).decode() for key, value in (secret.data or {}).items()}

    def kind(self, namespace: str, name: str) -> str:
        """Return a Secret's type, empty if there is none."""
        secret = _secret(namespace, name)
        return secret.type if secret else ""

    def create(self, namespace: str, name: str, content: Content, kind: str = OPAQUE) -> None:
        """Make a Secret that is not there."""
        from kubernetes import client  # type: ignore[import-untyped]

        meta = client.V1ObjectMeta(name=name, labels={"app.kubernetes.io/part-of": "headrace"})
        _api().create_namespaced_secret(namespace, client.V1Secret(metadata=meta, string_data=content, type=kind))

    def replace(self, namespace: str, name: str, content: Content) -> None:
        """Replace the content of an existing Secret. It is a patch, because the Job may only patch; removed keys are null."""
        gone = (self.read(namespace, name) or {}).keys() - content.keys()
        _api().patch_namespaced_secret(name, namespace, {"stringData": content, "data": dict.fromkeys(gone)})


def _secret(namespace: str, name: str) -> "client.V1Secret | None":  # type: ignore[name-defined]  # noqa: F821, UP037
    from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

    try:
        return _api().read_namespaced_secret(name, namespace)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def _api() -> "client.CoreV1Api":  # type: ignore[name-defined]  # noqa: F821, UP037
    from kubernetes import client, config

    config.load_incluster_config()
    return client.CoreV1Api()
