"""An S3 server on loopback for every test below that wants a bucket: moto, or the real one of `make test-s3`."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from ftlib.storage import S3Store

# A process of its own: it can serve racing and killed publishers, and ends with us because its stdin does. One request
# at a time, since moto looks before it writes: our probe found two of sixteen writers winning on a busy machine.
SERVER = """
import logging, sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

def app(environ, start_response):
    with one_at_a_time:
        return list(moto(environ, start_response))

server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    if "S3_SERVER" in os.environ:  # infra/radosgw.py started us
        yield os.environ["AWS_ENDPOINT_URL"]
        return
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        assert server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.communicate("")


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    if "S3_SERVER" in os.environ:
        return
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(s3_endpoint: str, s3_credentials: None) -> Any:
    """A fresh bucket, as boto3 sees it: a client that shares nothing with ours."""
    bucket = boto3.resource("s3", endpoint_url=s3_endpoint).Bucket(f"test-{uuid.uuid4().hex}")
    bucket.create()
    return bucket


@pytest.fixture
def s3_store(bucket: Any, s3_endpoint: str) -> S3Store:
    return S3Store(bucket.name, "registry", s3_endpoint, deadline=5.0)
