"""An object store as storage root, `s3a://bucket/prefix`: the only module that knows its scheme and login (ADR 0023).

Hadoop, fsspec and pyiceberg use different names; the root is written in Hadoop's form. Python reaches the store through
Arrow, which is installed for Parquet and pyiceberg anyway. Differences from a disk: a file appears completely or not
at all, a folder is only a common prefix, and there is no rename: files are copied one by one, then removed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsspec.implementations.arrow import ArrowFSWrapper

from headrace.access.bindings import ROOT_VARIABLE, ObjectStoreBinding, read_object_store
from headrace.errors import HeadraceError

SCHEME = "s3a://"
_TRIES = 100
_MISFIT = "Failed to flush response stream"


def is_object(path: str) -> bool:
    """Return whether a path is in an object store. Raises HeadraceError for a scheme that Hadoop has no driver for."""
    if path.startswith(("s3://", "s3n://")):
        raise HeadraceError(
            f"{path} is not Hadoop's form of an object store path. Write {SCHEME}{path.partition('://')[2]}."
        )
    return path.startswith(SCHEME)


def binding() -> ObjectStoreBinding:
    """Return the binding of this process to the store; without one, the cloud's defaults (its role, its instance)."""
    return read_object_store(Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)


def filesystem() -> ObjectStore:
    """Return the store. Picks up a changed binding."""
    return _filesystem(binding())


@lru_cache(maxsize=4)
def _filesystem(login: ObjectStoreBinding) -> ObjectStore:
    from pyarrow.fs import S3FileSystem

    return ObjectStore(
        S3FileSystem(
            access_key=login.access_key or None,
            secret_key=login.secret_key or None,
            region=login.region or None,
            endpoint_override=login.endpoint or None,
            allow_delayed_open=True,  # a small file takes one request instead of three
        )
    )


def hadoop_conf(login: ObjectStoreBinding) -> dict[str, str]:
    """Return Hadoop's settings of the store, including keys: set them in a running JVM, never on a command line."""
    conf = {"fs.s3a.aws.credentials.provider": "com.amazonaws.auth.DefaultAWSCredentialsProviderChain"}
    if login.access_key:
        conf = {
            "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
            "fs.s3a.access.key": login.access_key,
            "fs.s3a.secret.key": login.secret_key,
        }
    if login.region:
        conf["fs.s3a.endpoint.region"] = login.region
    if login.endpoint:  # not Amazon's: such stores use path-style addresses
        conf |= {"fs.s3a.endpoint": login.endpoint, "fs.s3a.path.style.access": "true"}
    return conf


def iceberg_properties(path: str) -> dict[str, str]:
    """Return pyiceberg's properties for a table at `path`; empty on a disk."""
    if not is_object(path):
        return {}
    login = binding()
    named = {
        "s3.access-key-id": login.access_key,
        "s3.secret-access-key": login.secret_key,
        "s3.region": login.region,
        "s3.endpoint": login.endpoint,
    }
    return {key: value for key, value in named.items() if value}


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]
    """Arrow's S3 file system with object store semantics; fsspec's wrapper treats it as a disk."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(SCHEME).rstrip("/")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: an object needs no folder."""

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_: object,
    ) -> Any:  # noqa: ANN401 - names, or name -> info
        """Return everything below a folder with one listing (a thousand names per request)."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._strip_protocol(path), recursive=True, allow_not_found=True)
        infos = [info for info in self.fs.get_file_info(selector) if withdirs or info.type is FileType.File]
        entries = {info.path: self._make_entry(info) for info in sorted(infos, key=lambda info: str(info.path))}
        return entries if detail else list(entries)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        """Return the bytes of one version of a file.

        Arrow asks for the size (HEAD) before it reads (GET). If the file is replaced in between, it returns the new content
        truncated to the old size, or followed by uninitialised memory up to that size. So the content is accepted only if the
        entity tag is unchanged afterwards (no two of our versions are equal: each contains its time). A response that does
        not fit the size is an internal failure of the S3 client and is retried as well. Raises OSError if it never succeeds.
        """
        inner = self._strip_protocol(path)
        for _attempt in range(_TRIES):
            try:
                with self.fs.open_input_stream(inner) as stream:
                    content = bytes(stream.read())
                    tag = stream.metadata()["ETag"]
            except OSError as error:
                if _MISFIT not in str(error):
                    raise
                continue
            with self.fs.open_input_stream(inner) as again:
                if again.metadata()["ETag"] == tag:
                    return content[start:end]
        raise OSError(f"{SCHEME}{inner} changes faster than it can be read.")

    def cp_file(self, path1: str, path2: str, **_: object) -> None:
        """Copy one file inside the store."""
        self.fs.copy_file(self._strip_protocol(path1), self._strip_protocol(path2))

    def mv(self, path1: str, path2: str, **_: object) -> None:
        """Move a file or a tree: everything is copied before anything is removed, so an interrupted move can be repeated."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        for path in self.find(source) or [source]:
            self.cp_file(path, target + path[len(source) :])
        self.rm(source, recursive=True)
