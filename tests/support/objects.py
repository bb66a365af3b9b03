"""A real S3 API on loopback: moto's server as a child process, which checks every signature, and a binding to it.

It stores everything in memory, so the content is lost when it ends. `python -m tests.support.objects server` prints the
program, to run it in a pod; `... furnish REACHED ENDPOINT FOLDER` creates bucket and user in a new server, and writes the
binding to FOLDER.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

from headrace.access.bindings import OBJECT_STORE, write_binding
from tests.support.platform import free_ports

BUCKET = "headrace"
REGION = "eu-central-1"
_FIRST = {"aws_access_key_id": "first", "aws_secret_access_key": "first", "region_name": REGION}
# To verify, moto signs a request again with botocore, which leaves out headers that Java's SDK signs (the user agent).
_OPEN_ACTIONS = 3  # number of set-up actions before the server begins to check signatures
_SERVER = f"""
import os, sys, botocore.auth
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "{_OPEN_ACTIONS}"
botocore.auth.SIGNED_HEADERS_BLACKLIST.clear()
from moto.server import main
main(sys.argv[1:])
"""
_ALL = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


@contextmanager
def s3_server(folder: Path) -> Iterator[Path]:
    """Run a server with one bucket and one user; yield a binding root that contains only `object-store`."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-W", "ignore", "-c", _SERVER, "-H", "127.0.0.1", "-p", str(port)]
    with (
        (folder / "moto.log").open("wb") as log,
        subprocess.Popen(argv, stdout=log, stderr=log) as child,
    ):
        try:
            _await(port, child)
            root = folder / "bindings"
            furnish(endpoint, endpoint, root / OBJECT_STORE)
            yield root
        finally:
            child.kill()


def furnish(reached: str, endpoint: str, folder: Path) -> None:
    """Create the bucket and the user in a new server, and write a binding with `endpoint` to a folder."""
    login = _user(reached)
    store = boto3.client("s3", endpoint_url=reached, config=Config(s3={"addressing_style": "path"}), **login)
    store.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    keys = {"accessKey": login["aws_access_key_id"], "secretKey": login["aws_secret_access_key"]}
    write_binding(folder, {"type": "s3", "endpoint": endpoint, "region": REGION} | keys)


def give(bindings: Path, *roots: Path) -> None:
    """Copy the binding into other binding roots: an admin's, a pipeline's."""
    for root in roots:
        shutil.copytree(bindings / OBJECT_STORE, root / OBJECT_STORE, dirs_exist_ok=True)


def _await(port: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert child.poll() is None, "moto's server ended: see moto.log"
            assert time.monotonic() < deadline, "moto's server does not listen"
            time.sleep(0.1)


def _user(endpoint: str) -> dict[str, str]:
    """Create a user with all permissions, and return its login."""
    iam = boto3.client("iam", endpoint_url=endpoint, **_FIRST)
    iam.create_user(UserName="headrace")
    iam.put_user_policy(UserName="headrace", PolicyName="all", PolicyDocument=json.dumps(_ALL))
    made = iam.create_access_key(UserName="headrace")["AccessKey"]
    return _FIRST | {"aws_access_key_id": made["AccessKeyId"], "aws_secret_access_key": made["SecretAccessKey"]}


if __name__ == "__main__":
    if sys.argv[1] == "server":
        print(_SERVER)
    else:
        furnish(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
