"""An object store as storage root, `s3a://bucket/prefix`: the one place that knows its scheme, its login and its ways (ADR 0023).

Hadoop, fsspec and pyiceberg each name things their own way; the root is written as Hadoop writes it. Python reaches the
store by Arrow, which is there for Parquet and pyiceberg anyway. What differs from a disk: a file appears whole or not
at all, a folder is nothing but the names in it, and nothing is renamed: it is copied file by file, then removed.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from fsspec.implementations.arrow import ArrowFSWrapper

from headrace.contract.bindings import ROOT_VARIABLE, ObjectStoreBinding, read_object_store
from headrace.errors import HeadraceError

SCHEME = "s3a://"
_TRIES = 100
_MISFIT = "Failed to flush response stream"


def is_object(path: str) -> bool:
    """Return whether a path lies in an object store. Raises HeadraceError for a scheme that Hadoop has no driver of."""
    if path.startswith(("s3://", "s3n://")):
        raise HeadraceError(
            f"{path} is not how Hadoop names an object store: write {SCHEME}{path.partition('://')[2]}."
        )
    return path.startswith(SCHEME)


def binding() -> ObjectStoreBinding:
    """Return how this process reaches the store; without a binding, as the cloud knows it (its role, its instance)."""
    return read_object_store(Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)


def filesystem() -> ObjectStore:
    """Return the store. A binding that was changed meanwhile is followed."""
    return _filesystem(binding())


@lru_cache(maxsize=4)
def _filesystem(own: ObjectStoreBinding) -> ObjectStore:
    from pyarrow.fs import S3FileSystem

    return ObjectStore(
        S3FileSystem(
            access_key=own.access_key or None,
            secret_key=own.secret_key or None,
            region=own.region or None,
            endpoint_override=own.endpoint or None,
            allow_delayed_open=True,  # a small file is one request instead of three
        )
    )


def hadoop_conf(own: ObjectStoreBinding) -> dict[str, str]:
    """Return Hadoop's settings of the store, the keys among them: to be set in a running JVM, never in a command line."""
    conf = {"fs.s3a.aws.credentials.provider": "com.amazonaws.auth.DefaultAWSCredentialsProviderChain"}
    if own.access_key:
        conf = {
            "fs.s3a.aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
            "fs.s3a.access.key": own.access_key,
            "fs.s3a.secret.key": own.secret_key,
        }
    if own.region:
        conf["fs.s3a.endpoint.region"] = own.region
    if own.endpoint:  # not Amazon's: such stores are named by address, and a bucket is no host there
        conf |= {"fs.s3a.endpoint": own.endpoint, "fs.s3a.path.style.access": "true"}
    return conf


def iceberg_properties(path: str) -> dict[str, str]:
    """Return pyiceberg's properties for a table at `path`: none on a disk."""
    if not is_object(path):
        return {}
    own = binding()
    named = {
        "s3.access-key-id": own.access_key,
        "s3.secret-access-key": own.secret_key,
        "s3.region": own.region,
        "s3.endpoint": own.endpoint,
    }
    return {key: value for key, value in named.items() if value}


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]
    """Arrow's S3 with the ways of an object store: fsspec's wrapper takes it for a disk."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(SCHEME).rstrip("/")

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing: a name needs no folder."""

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **_: object,
    ) -> Any:  # noqa: ANN401 - names, or name -> what is known of it
        """Return everything below a folder, by one listing (a thousand names a request)."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._strip_protocol(path), recursive=True, allow_not_found=True)
        infos = [each for each in self.fs.get_file_info(selector) if withdirs or each.type is FileType.File]
        found = {each.path: self._make_entry(each) for each in sorted(infos, key=lambda each: str(each.path))}
        return found if detail else list(found)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: object) -> bytes:
        """Return the bytes of one version of a file.

        Arrow asks for the size (HEAD) before it reads (GET). Of a file that is replaced between the two it gives the new one cut
        to the old one's size, or followed by whatever was in memory up to that size. So what was read counts if the file
        still has its entity tag afterwards (no two versions of ours are alike: each has its time). A response that does not fit
        the size is an internal failure of S3's client, and is read again as well. Raises OSError where that never happens.
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
        """Move a file or a tree: everything is copied before anything is removed, so broken off it can begin again."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        for path in self.find(source) or [source]:
            self.cp_file(path, target + path[len(source) :])
        self.rm(source, recursive=True)
