"""What holds for a bucket of every service: what others write there, and what is asked where nothing is right."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import ftlib.storage.cloud as cloud_module
from ftlib.data.sources.files import Files
from ftlib.errors import DataError, IntegrityError, StorageError, TransientError
from ftlib.storage import Place, open_objects, open_store, patience
from ftlib.storage import s3 as s3_module
from ftlib.storage.gcs import GcsBucket
from ftlib.storage.model_folders import fetch_folder, put_folder
from ftlib.storage.store import Store
from tests.ftlib.conftest import BUCKETS, bucket_place, bucket_store, connection_string
from tests.ftlib.registry.kit import publish
from tests.ftlib.storage.fault_proxy import (
    Call,
    Fault,
    FaultProxy,
    refused,
    reset_after,
    reset_before,
    silence,
    truncated,
)
from tests.ftlib.storage.gcs_server import GcsServer

NAMES = ["with space", "per%20cent", "plus+plus", "é-日本", "hash#x", "a&b=c", "it's~(here)", "$%^!,;@[]"]


@pytest.fixture(params=BUCKETS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest) -> Place:
    return bucket_place(kind, request, "rows/")


@pytest.fixture
def put(kind: str, place: Place, request: pytest.FixtureRequest) -> Callable[[str, bytes], None]:
    """Write an object under any key, as another program would."""
    if kind == "s3":
        bucket = request.getfixturevalue("bucket")
        return lambda key, data: bucket.put_object(Key=key, Body=data)
    objects: Any = open_objects(place)
    return objects.client.put


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestWhatOthersWrote:
    def test_keys_are_listed_and_read_as_they_are(self, place: Place, put: Callable[[str, bytes], None]) -> None:
        keys = ["rows/", "rows/deep/a", "rows/empty", *(f"rows/{name}?x" for name in NAMES)]
        for key in keys:
            put(key, key.encode() * (key != "rows/empty"))
        put("rowsandmore", b"x")
        objects = open_objects(place)
        listed = list(objects.walk("rows/"))
        assert [stored.key for stored in listed] == sorted(keys, key=str.encode)
        for stored in listed:
            content = stored.key.encode() * (stored.key != "rows/empty")
            assert stored.bytes == len(content)
            assert objects.copy(stored, None) == sha(content)
            assert 0 <= stored.age < 60

    def test_another_version_is_never_read(self, place: Place, put: Callable[[str, bytes], None]) -> None:
        put("rows/a", b"first")
        objects = open_objects(place)
        (listed,) = objects.walk("rows/")
        put("rows/a", b"other")
        (again,) = objects.walk("rows/")
        assert again.version != listed.version
        with pytest.raises(DataError, match="changed or vanished while it was read"):
            objects.copy(listed, None)

    def test_rows_are_read_from_there(self, place: Place, put: Callable[[str, bytes], None], tmp_path: Path) -> None:
        put("rows/a b.jsonl", b'{"text": "x"}\n')
        put("rows/folder/", b"")
        put("rows/empty.jsonl", b"")
        source = Files(path=place.uri, endpoint_url=place.endpoint_url)
        pinned = {file.uri.removeprefix(place.uri): (file.bytes, file.sha256) for file in source.pin()}
        assert pinned == {"a b.jsonl": (14, sha(b'{"text": "x"}\n')), "empty.jsonl": (0, sha(b""))}

    def test_model_folders_come_and_go(self, place: Place, tmp_path: Path) -> None:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        (tmp_path / "model" / "weights").write_bytes(os.urandom(1000))
        target = place.beside(f"{place.uri}models/one")
        put_folder(tmp_path / "model", target)
        with pytest.raises(StorageError, match=r"holds rows/models/one/config\.json already"):
            put_folder(tmp_path / "model", target)
        fetched = fetch_folder(target, tmp_path / "cache")
        assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
            path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()
        }

    def test_long_listings_are_read_to_the_end(
        self, kind: str, place: Place, put: Callable[[str, bytes], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = {"s3": "s3_client", "gs": "gcs", "abfs": "azure"}[kind]
        monkeypatch.setattr(f"ftlib.storage.{module}.NAMES_AT_ONCE", 3)
        for n in range(8):
            put(f"rows/many/{n // 2}/{n}", b"")
        assert len(list(open_objects(place).walk("rows/many/"))) == 8
        assert open_store(place).list("many") == ["0/", "1/", "2/", "3/"]


def test_a_forked_process_and_its_parent_go_on(kind: str, request: pytest.FixtureRequest) -> None:
    """A store that was used before: two processes that read from one connection would get each other's answers."""
    store = bucket_store(kind, request)
    store.create("before", b"x" * 1000)
    if (child := os.fork()) == 0:
        right = False
        try:
            right = store.read("before") == b"x" * 1000 and store.create("child", b"c") and store.list("x") == []
        finally:
            os._exit(0 if right else 1)
    assert all(store.read("before") == b"x" * 1000 for _ in range(20))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.read("child") == b"c"


def test_names_are_keys_whatever_they_mean_in_a_uri(kind: str, request: pytest.FixtureRequest) -> None:
    store = bucket_store(kind, request)
    for name in NAMES:
        assert store.create(f"n/{name}", name.encode())
        assert not store.create(f"n/{name}", b"other")
        assert (store.read(f"n/{name}"), store.size(f"n/{name}")) == (name.encode(), len(name.encode()))
    assert store.list("n") == sorted(NAMES)
    assert all(store.discard(f"n/{name}") for name in NAMES)
    assert store.list("n") == []


@pytest.mark.parametrize("size", [1, 8 * 2**20, 10_001 * 8 * 2**20, 5 * 2**40])
def test_no_upload_has_too_many_parts(size: int) -> None:
    """Computed: 5 MiB parts once ended at 48.8 GiB."""
    assert -(-size // s3_module.part_bytes(size)) <= 10_000
    part = cloud_module.part_bytes(size, 50_000)
    assert -(-size // part) <= 50_000
    assert part % 2**18 == 0
    assert size > 10_000 * 8 * 2**20 or part == s3_module.part_bytes(size) == 8 * 2**20


def soon(store: Any, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    store.client.deadline = 0.5
    return store


class TestNothingIsRight:
    @pytest.mark.parametrize("uri", ["s3://no-such-bucket/p", "gs://no-such-bucket/p"])
    def test_an_absent_bucket_is_not_an_empty_one(
        self, uri: str, gcs: GcsServer, s3_endpoint: str, s3_credentials: None
    ) -> None:
        store = open_store(Place.parse(uri, s3_endpoint))
        for call in (
            lambda: store.list("a"),
            lambda: store.create("a", b""),
            lambda: store.write("a", b""),
            lambda: store.read("a"),
            lambda: store.read_range("a", 0, 1),
            lambda: store.size("a") if uri.startswith("gs") else store.read("a"),
        ):
            with pytest.raises(StorageError, match="create the bucket") as caught:
                call()
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("uri", "variable", "endpoint"),
        [
            ("s3://rows/p", "AWS_ENDPOINT_URL", "http://no-such-host.invalid"),
            ("gs://rows/p", "STORAGE_EMULATOR_HOST", "http://no-such-host.invalid"),
            ("gs://rows/p", "STORAGE_EMULATOR_HOST", "http://127.0.0.1:9"),
            (
                "abfs://rows/p",
                "AZURE_STORAGE_CONNECTION_STRING",
                connection_string("http://no-such-host.invalid"),
            ),
        ],
    )
    def test_nobody_is_there(
        self, uri: str, variable: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, s3_credentials: None
    ) -> None:
        monkeypatch.setenv(variable, endpoint)
        with pytest.raises(TransientError, match="check the endpoint and the network") as caught:
            soon(open_store(Place.parse(uri)), monkeypatch).list("a")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("uri", "package", "extra"), [("gs://rows", "gcsfs", "gcs"), ("abfs://rows", "adlfs", "azure")]
    )
    def test_a_missing_package_is_named_with_its_extra(
        self, uri: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.core", None)
        with pytest.raises(StorageError, match=rf"needs the package {package}.*reglage\[{extra}\]"):
            open_store(Place.parse(uri)).read("a")

    @pytest.mark.parametrize(
        ("uri", "says"),
        [
            ("gs://No_Bucket/x", "is no name of a bucket"),
            ("abfs://no/x", "is no name of a container"),
            ("abfs://rows@account.blob.example.com/x", "is no host of a storage account"),
        ],
    )
    def test_names_that_can_be_none(self, uri: str, says: str) -> None:
        with pytest.raises(StorageError, match=says):
            open_store(Place.parse(uri))

    def test_an_account_is_named_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(StorageError, match="names no storage account; set AZURE_STORAGE_ACCOUNT_NAME"):
            open_store(Place.parse("abfs://rows/x")).read("a")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string("http://127.0.0.1:9"))
        with pytest.raises(StorageError, match="is of the account acme, and AZURE_STORAGE_CONNECTION_STRING of devst"):
            open_store(Place.parse("abfs://rows@acme.dfs.core.windows.net/x")).read("a")

    def test_there_are_no_credentials_for_gcs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        with pytest.raises(StorageError, match=r"no credentials for gs://rows/.*gcloud auth application-default login"):
            open_store(Place.parse("gs://rows")).read("a")

    def test_a_bucket_in_another_region(self, bucket: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with FaultProxy(s3_endpoint) as proxy:
            proxy.plan(refused(400, "AuthorizationHeaderMalformed"))
            with pytest.raises(StorageError, match="in another region: set AWS_REGION"):
                open_store(Place.parse(f"s3://{bucket.name}/x", proxy.url)).create("a", b"")


LASTING: dict[str, tuple[Fault, type[StorageError] | type[TransientError], str, int]] = {
    "500": (refused(500, "x"), TransientError, r"the store answered 500.*run again later", 12),
    "503": (refused(503, "x"), TransientError, r"the store answered 503.*run again later", 12),
    "429": (refused(429, "x"), TransientError, r"the store answered 429.*run again later", 12),
    "reset": (reset_before(), TransientError, r"check the endpoint and the network", 12),
    "silence": (silence(), TransientError, r"check the endpoint and the network", 4),
}


def creating(call: Call) -> bool:
    return "ifGenerationMatch=0" in call.target or call.headers.get("If-None-Match") == "*"


class TestFaults:
    @pytest.fixture(params=["gs", pytest.param("abfs", marks=pytest.mark.slow)])
    def kind(self, request: pytest.FixtureRequest) -> str:
        return request.param

    @pytest.fixture
    def proxy(self, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
        upstream = request.getfixturevalue("gcs").url if kind == "gs" else request.getfixturevalue("azurite")
        place = bucket_place(kind, request, "registry")
        with FaultProxy(upstream) as proxy:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
            monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(proxy.url))
            monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
            proxy.place = place
            yield proxy

    @pytest.fixture
    def store(self, proxy: Any) -> Any:
        store: Any = open_store(proxy.place)
        store.client.deadline = 3.0
        return store

    def test_a_version_is_published_once_though_the_reply_of_its_commit_was_lost(
        self, store: Store, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        proxy.plan(reset_after(), where=creating, once_per_spot=True)
        version, _ = publish(store, tmp_path, "k", {"a": "x"})
        assert proxy.struck
        assert store.list("models/m/versions") == ["00000001.json"]
        assert publish(store, tmp_path, "k", {"a": "x"})[0] == version

    def test_a_create_whose_reply_was_lost_is_told_by_what_is_there(self, store: Store, proxy: FaultProxy) -> None:
        proxy.plan(reset_after(), where=creating, times=1)
        assert not store.create("a", b"mine")
        assert store.read("a") == b"mine"

    @pytest.mark.parametrize(
        "fault", [pytest.param(name, marks=[] if name == "503" else pytest.mark.slow) for name in LASTING]
    )
    def test_what_lasts_is_one_line_soon(self, store: Any, proxy: FaultProxy, fault: str) -> None:
        strikes, error, says, most = LASTING[fault]
        proxy.plan(strikes)
        store.client.deadline = 0.5
        for call in (lambda: store.create("a", b"x"), lambda: store.read("a"), lambda: store.list("a")):
            proxy.calls.clear()
            with pytest.raises(error, match=says) as caught:
                call()
            assert "\n" not in str(caught.value)
            assert 1 <= len(proxy.calls) <= most
        proxy.clear()
        store.client.deadline = 5.0
        assert store.create("a", b"x")

    def test_what_passes_is_tried_again(self, store: Any, proxy: FaultProxy, tmp_path: Path) -> None:
        data = os.urandom(100_000)
        (tmp_path / "f").write_bytes(data)
        for fault in (refused(503, "x"), reset_before(), truncated()):
            proxy.plan(fault, times=1)
            store.put_file(tmp_path / "f", "f", sha(data))
            proxy.plan(fault, where=lambda call: call.method == "GET", times=1)
            store.get_file("f", tmp_path / "g", sha(data))
            assert (tmp_path / "g").read_bytes() == data

    def test_a_part_that_breaks_off_is_sent_again(
        self, kind: str, store: Any, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud_module, "PART_BYTES", 2**18)
        data = os.urandom(5 * 2**18 + 7)
        (tmp_path / "f").write_bytes(data)
        for fault in (reset_before(), reset_after(), refused(503, "x")):
            for part in (1, 4, 6, 7):  # of Azure the seventh is the list
                seen: list[Call] = []

                def strikes(call: Call, part: int = part, seen: list[Call] = seen) -> bool:
                    seen.append(call)
                    return call.method == "PUT" and len([one for one in seen if one.method == "PUT"]) == part

                proxy.clear()
                proxy.plan(fault, where=strikes, times=1)
                store.put_file(tmp_path / "f", "f", sha(data))
                store.get_file("f", tmp_path / "g", sha(data))
                assert (tmp_path / "g").read_bytes() == data
        with pytest.raises(IntegrityError, match="its bytes were changed"):
            store.put_file(tmp_path / "f", "new", sha(b"else"))
        assert store.size("new") is None


class TestGcs:
    def test_an_upload_goes_on_where_the_service_has_it(
        self, gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud_module, "PART_BYTES", 2**19)
        gcs.takes_at_most = 3 * 2**16
        data = os.urandom(2**20 + 5)
        (tmp_path / "f").write_bytes(data)
        open_store(Place.parse("gs://rows")).put_file(tmp_path / "f", "f", sha(data))
        assert gcs.buckets["rows"]["f"].data == data

    def test_what_was_stored_as_gzip_is_read_as_it_was_stored(self, gcs: GcsServer) -> None:
        import gzip

        packed = gzip.compress(b'{"text": "x"}\n' * 100)
        gcs.put("rows", "a.jsonl.gz", packed, encoding="gzip")
        objects = open_objects(Place.parse("gs://rows"))
        (listed,) = objects.walk("")
        assert objects.copy(listed, None) == sha(packed)

    def test_bytes_that_hold_a_boundary_are_stored_as_they_are(self, gcs: GcsServer) -> None:
        data = b"\n--==0==\nContent-Type: x\n\n--==0==--"
        store = open_store(Place.parse("gs://rows"))
        assert store.create("a", data)
        assert store.read("a") == data

    def test_a_role_that_may_only_read(self, gcs: GcsServer) -> None:
        gcs.read_only = True
        store = open_store(Place.parse("gs://rows"))
        with pytest.raises(
            StorageError, match=r"the role needs storage\.objects\.get, storage.objects.create"
        ) as caught:
            store.create("a", b"x")
        assert "\n" not in str(caught.value)
        assert not store.discard("a")
        assert store.list("a") == []

    def test_a_clock_that_is_wrong(self, gcs: GcsServer) -> None:
        gcs.tokens, gcs.clock_ahead = set(), 3600.0
        with pytest.raises(StorageError, match=r"this machine's clock is 3[56]\d\d s behind the store's: set it"):
            open_store(Place.parse("gs://rows")).read("a")

    def test_the_key_that_encrypts_is_asked_for_and_seen(self, gcs: GcsServer) -> None:
        store = open_store(Place.parse("gs://rows", kms_key="projects/p/locations/l/keyRings/r/cryptoKeys/k"))
        with pytest.raises(StorageError, match=r"encryption with the KMS key .* was asked for"):
            store.create("a", b"x")  # the stub encrypts nothing
        assert "kmsKeyName=projects" in gcs.calls[-1][1]

    @pytest.fixture
    def account(self, gcs: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A service account whose tokens the stub gives out."""
        key = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        facts = {
            "type": "service_account",
            "client_email": "run@acme.iam.gserviceaccount.com",
            "token_uri": f"{gcs.url}/token",
            "private_key": key.decode(),
            "project_id": "acme",
        }
        (tmp_path / "account.json").write_text(json.dumps(facts))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        gcs.tokens = {"token-1"}

    def test_credentials_that_expire_in_mid_transfer_are_renewed_once(
        self, gcs: GcsServer, account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cloud_module, "PART_BYTES", 2**18)
        data = os.urandom(4 * 2**18)
        (tmp_path / "f").write_bytes(data)
        store = open_store(Place.parse("gs://rows"))
        expire = threading.Event()

        class Tokens(set[str]):
            def __contains__(self, token: object) -> bool:
                if len([call for call in gcs.calls if "upload_id" in call[1]]) == 3:
                    expire.set()
                return token == ("token-2" if expire.is_set() else "token-1")

        gcs.tokens = Tokens()
        store.put_file(tmp_path / "f", "f", sha(data))
        assert gcs.buckets["rows"]["f"].data == data
        assert gcs.issued == 2

    def test_credentials_that_stay_refused_end_at_once(self, gcs: GcsServer, account: None) -> None:
        store = open_store(Place.parse("gs://rows"))
        assert store.read("a") is None
        gcs.tokens, gcs.calls = set(), []
        with pytest.raises(StorageError, match="the credentials have expired or are none of Google's: renew them"):
            store.read("a")
        assert len([call for call in gcs.calls if call[1] != "/token"]) == 2

    def test_its_own_filesystem_asks_no_other_service(self, gcs: GcsServer) -> None:
        """gcsfs asks a gRPC endpoint for the bucket's kind before anything else, and waits 60 s where none listens."""
        filesystem = GcsBucket("rows").connected()
        assert type(filesystem).__mro__[1].__module__ == "gcsfs.core"
