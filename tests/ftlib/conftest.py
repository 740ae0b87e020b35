"""Servers on loopback for every test below that wants a bucket.

S3: moto, or the real one of `make test-s3`. GCS: a stub of our own. Azure: azurite, where `make azurite` has put it.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest

from ftlib.storage import Place, S3Store, Store, open_store
from tests.ftlib.storage.gcs_server import GcsServer

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


@pytest.fixture(scope="session", autouse=True)
def botocore_reads_its_services_once() -> Iterator[None]:
    """A client of its own for every store is 0.1 s of JSON, of which botocore remembers nothing beyond a session."""
    with pytest.MonkeyPatch.context() as patch:
        loader = botocore.loaders.create_loader()
        patch.setattr(botocore.session, "create_loader", lambda _: loader)
        yield


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


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """GCS with one bucket, `rows`, which is where gs:// leads."""
    with GcsServer({"rows": {}}) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        yield server


AZURITE = Path(__file__).parents[2] / ".venv" / "azurite" / "node_modules" / ".bin" / "azurite-blob"
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of every azurite: its documentation gives it."""


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """Azure's own stand-in for its blobs, in memory."""
    program = os.environ.get("AZURITE", AZURITE)
    if not (node := shutil.which("node")) or not Path(program).exists():
        pytest.skip("azurite is not here: make azurite")
    options = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--disableTelemetry"]
    with subprocess.Popen(
        [node, os.path.realpath(program), *options, "--skipApiVersionCheck"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        line = next(line for line in server.stdout if "successfully listens on" in line)
        yield line.split()[-1]
        server.terminate()
        server.communicate()  # it says that it ends


def connection_string(endpoint: str) -> str:
    return (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
        f"BlobEndpoint={endpoint}/{ACCOUNT};"
    )


@pytest.fixture
def container(azurite: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh container, which is where abfs:// leads."""
    from azure.storage.blob import BlobServiceClient

    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azurite))
    name = f"test-{uuid.uuid4().hex}"
    BlobServiceClient.from_connection_string(connection_string(azurite)).create_container(name)
    return name


BUCKETS = ["s3", "gs", pytest.param("abfs", marks=pytest.mark.slow)]
"""For tests that hold for every service."""


def bucket_place(kind: str, request: pytest.FixtureRequest, prefix: str) -> Place:
    """A place in a fresh bucket of a service."""
    if kind == "s3":
        return Place.parse(
            f"s3://{request.getfixturevalue('bucket').name}/{prefix}", request.getfixturevalue("s3_endpoint")
        )
    if kind == "gs":
        request.getfixturevalue("gcs")
        return Place.parse(f"gs://rows/{prefix}")
    return Place.parse(f"abfs://{request.getfixturevalue('container')}/{prefix}")


def bucket_store(kind: str, request: pytest.FixtureRequest) -> Store:
    """A store in a fresh bucket of a service, which gives up soon."""
    store: Any = open_store(bucket_place(kind, request, "registry"))
    store.client.deadline = 5.0
    return store
