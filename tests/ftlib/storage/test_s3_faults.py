"""S3 through a proxy that breaks things: recovered with one version, or one clear error and nothing to see."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import ftlib.storage.s3 as s3_module
from ftlib.errors import ConflictError, IntegrityError, StorageError, TransientError
from ftlib.registry import CHAMPION, AliasEntry, ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.registry.versions import MANIFEST, Manifest, Version, file_of
from ftlib.storage import S3Store, patience
from ftlib.storage.store import Store
from tests.ftlib.storage.fault_proxy import (
    Answer,
    Call,
    Fault,
    FaultProxy,
    Send,
    clock_of_the_server,
    done_but_500,
    flipped,
    flipped_on_the_way_up,
    key_no_longer_valid,
    lost_reply,
    refused,
    reset_after,
    reset_before,
    silence,
    slow,
    taken_without_a_reason,
    truncated,
)

PART = 5 * 2**20  # the least that S3 takes for a part that is not the last


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def store(bucket, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A store behind the proxy, with 6 MB files in two parts either way and short pauses."""
    monkeypatch.setattr(s3_module, "PART_BYTES", PART)
    monkeypatch.setattr(s3_module, "RANGE_BYTES", PART)
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.5)
    return S3Store(bucket.name, "r", proxy.url, deadline=3.0)


def impatient(store: S3Store, deadline: float = 60.0) -> None:
    """Let requests be repeated for half a second; a reply may take a quarter of `deadline`, as on a busy machine."""
    store.client.deadline = deadline
    store.client.connected()  # its time-outs are a share of the deadline
    store.client.deadline = 0.5


@pytest.fixture
def clean(bucket, s3_endpoint: str, s3_credentials: None) -> S3Store:
    """The same objects, seen past the proxy."""
    return S3Store(bucket.name, "r", s3_endpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "model").mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(PART + 2**20))
    (folder / "config.json").write_text("{}")
    return folder


def publish(store: Store, folder: Path, key: str = "k") -> Version:
    files = tuple(file_of(folder, path.name) for path in sorted(folder.iterdir()))
    manifest = Manifest(name="m", description="", files=files, metrics={}, lineage={})
    return ModelRegistry(store).publish(manifest, folder, key, lambda _: None, folder.parent)[0]


def move_alias(store: Store, version: int, expected: int | None) -> AliasEntry:
    return AliasLog(store, "m", CHAMPION).move(version, expected, who="a test", why="it asks")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def anything(call: Call) -> bool:
    return True


def download(call: Call) -> bool:
    return call.operation == "get" and call.folder == "blobs"


def create(call: Call) -> bool:
    return call.operation == "create"


def decisive(call: Call) -> bool:
    """One of each kind, since a reply that never comes costs a time-out."""
    return call.spot in {("create", "versions"), ("complete", "blobs"), ("create", "aliases"), ("get", "blobs")}


PASSING: dict[str, tuple[Callable[[], Fault], Callable[[Call], bool]]] = {
    "500": (lambda: refused(500, "InternalError"), anything),
    "503": (lambda: refused(503, "SlowDown"), anything),
    "slow": (lambda: slow(0.1), anything),
    "reset before": (reset_before, anything),
    "reset after": (reset_after, anything),
    "500 after": (done_but_500, anything),
    "lost reply": (lost_reply, decisive),
    "409": (lambda: refused(409, "ConditionalRequestConflict"), create),
    "412 without a reason": (taken_without_a_reason, create),
    "flipped byte": (flipped, lambda call: call.operation == "get" and call.folder != "probes"),
    "truncated body": (truncated, lambda call: call.operation == "get"),
}
each_passing = pytest.mark.parametrize("fault", PASSING)


class TestWhatPasses:
    """Every kind of request is struck once; the outcome is as if nothing had been."""

    def strike(self, proxy: FaultProxy, name: str) -> None:
        proxy.clear()
        fault, where = PASSING[name]
        # a 412 is there only for those who come second: each of them gets it
        proxy.plan(fault(), where=where, once_per_spot=name != "412 without a reason")

    @each_passing
    def test_a_version_is_published_once_all_the_same(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path, fault: str
    ):
        self.strike(proxy, fault)
        version = publish(store, folder)
        registry = ModelRegistry(clean)
        assert proxy.struck
        assert registry.versions("m") == [version]
        assert version.version == 1
        assert registry.verify(version) == []
        registry.pull(version, tmp_path / "pulled")
        assert contents(tmp_path / "pulled") == contents(folder)
        assert len(registry.store.list("models/m/manifests")) == 1

    @each_passing
    def test_a_version_is_pulled_whole_all_the_same(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path, fault: str
    ):
        version = publish(clean, folder)
        self.strike(proxy, fault)
        assert ModelRegistry(store).pull(version, tmp_path / "out" / "pulled")
        assert contents(tmp_path / "out" / "pulled") == contents(folder)
        assert os.listdir(tmp_path / "out") == ["pulled"]
        assert bool(proxy.struck) == (PASSING[fault][1] is not create)

    @each_passing
    def test_an_alias_moves_once_all_the_same(self, store: S3Store, clean: S3Store, proxy: FaultProxy, fault: str):
        self.strike(proxy, fault)
        assert move_alias(store, 1, expected=None).sequence == 1
        with pytest.raises(ConflictError):  # decided against what has changed since
            move_alias(store, 2, expected=None)
        assert move_alias(store, 2, expected=1).sequence == 2
        log = AliasLog(clean, "m", CHAMPION)
        assert not store.create(log.path(2), b"another")
        assert [entry.version for entry in log.entries()] == [1, 2]
        assert proxy.struck


KINDS = {
    ("create", "probes"),
    ("create", "manifests"),
    ("create", "versions"),
    ("put", "blobs"),
    ("start", "blobs"),
    ("part", "blobs"),
    ("complete", "blobs"),
    ("head", "blobs"),
    ("get", "blobs"),
    ("get", "probes"),
    ("delete", "probes"),
}


def test_every_kind_of_request_is_struck(store: S3Store, proxy: FaultProxy, folder: Path):
    """What the tests above rest on."""
    proxy.plan(reset_after(), once_per_spot=True)
    publish(store, folder)
    assert {call.spot for call in proxy.struck} >= KINDS


LASTING: dict[str, tuple[Fault, type[StorageError], str, int]] = {
    # the error, what its one line says, and how often one and the same request may be sent
    "500": (refused(500, "InternalError"), TransientError, r"the store answered InternalError.*run again later", 12),
    "503": (refused(503, "SlowDown"), TransientError, r"the store answered SlowDown.*run again later", 12),
    "409": (refused(409, "OperationAborted"), TransientError, r"the store answered OperationAborted", 12),
    "reset": (reset_before(), TransientError, r"check the endpoint and the network", 12),
    "silence": (silence(), TransientError, r"check the endpoint and the network", 4),
    "expired": (refused(400, "ExpiredToken"), StorageError, r"credentials have expired: renew them and run again", 2),
    "no rights": (refused(403, "AccessDenied"), StorageError, r"the role needs s3:GetObject, s3:PutObject and", 1),
    "our clock is late": (clock_of_the_server(timedelta(hours=1)), StorageError, r"is 3[56]\d\d s behind", 1),
    "our clock is early": (clock_of_the_server(-timedelta(hours=1)), StorageError, r"is 3[56]\d\d s ahead of", 1),
}
each_lasting = pytest.mark.parametrize("fault", LASTING)


class TestWhatLasts:
    """One clear error, soon, nothing to see; and after it the same command succeeds."""

    def one_line(self, store: S3Store, proxy: FaultProxy, name: str, call: Callable[[], object]) -> None:
        fault, kind, says, most = LASTING[name]
        proxy.clear()
        proxy.plan(fault)
        impatient(store, 4.0 if name == "silence" else 60.0)  # a reply that never comes is waited for in vain
        with pytest.raises(StorageError if kind is StorageError else TransientError, match=says) as caught:
            call()
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert 1 <= proxy.most_repeated() <= most
        proxy.clear()
        store.client.deadline = 3.0

    @each_lasting
    def test_nothing_is_published_and_the_next_attempt_works(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, fault: str
    ):
        publish(store, folder, "earlier")
        (folder / "config.json").write_text("changed")
        self.one_line(store, proxy, fault, lambda: publish(store, folder))
        assert [version.key for version in ModelRegistry(clean).versions("m")] == ["earlier"]
        assert [publish(store, folder).version for _ in range(2)] == [2, 2]

    @each_lasting
    def test_no_folder_appears_and_the_next_pull_works(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path, fault: str
    ):
        version = publish(clean, folder)
        (out := tmp_path / "out").mkdir()
        self.one_line(store, proxy, fault, lambda: ModelRegistry(store).pull(version, out / "pulled"))
        assert os.listdir(out) == []
        assert ModelRegistry(store).pull(version, out / "pulled")

    @each_lasting
    def test_the_alias_stays_and_the_next_move_works(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, fault: str
    ):
        self.one_line(store, proxy, fault, lambda: move_alias(store, 1, expected=None))
        assert AliasLog(clean, "m", CHAMPION).newest() is None
        assert move_alias(store, 1, expected=None).sequence == 1


class TestDamage:
    """Bytes that are wrong each time they are asked for."""

    @pytest.mark.parametrize(("fault", "kind"), [(flipped, IntegrityError), (truncated, TransientError)])
    def test_damage_at_reading_back_publishes_nothing(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, fault, kind
    ):
        proxy.plan(fault(), where=download)
        impatient(store)
        with pytest.raises(kind):
            publish(store, folder)
        assert ModelRegistry(clean).versions("m") == []
        # twice, for the parts of the model that are read back, and again after it was sent once more
        assert proxy.most_repeated(download) <= (4 if kind is IntegrityError else 12)

    @pytest.mark.parametrize(("fault", "kind"), [(flipped, IntegrityError), (truncated, TransientError)])
    def test_damage_at_a_pull_leaves_no_folder(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path, fault, kind
    ):
        version = publish(clean, folder)
        (out := tmp_path / "out").mkdir()
        proxy.plan(fault(), where=download)
        impatient(store)
        with pytest.raises(kind):
            ModelRegistry(store).pull(version, out / "pulled")
        assert os.listdir(out) == []

    def test_what_is_sent_is_covered_by_its_signature(self, store: S3Store, proxy: FaultProxy, folder: Path):
        """A server that checks it, as all but moto do, refuses a record with a byte that was flipped on the way up."""
        publish(store, folder)
        sent = [call for call in proxy.calls if call.operation in ("create", "put")]
        assert len(sent) > 3
        for call in sent:
            assert call.headers["X-Amz-Content-SHA256"] == hashlib.sha256(call.body).hexdigest()
            assert "x-amz-content-sha256" in call.headers["Authorization"]

    def test_a_part_damaged_on_the_way_up_is_found_and_sent_again(
        self, store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path
    ):
        proxy.plan(flipped_on_the_way_up(), where=lambda call: call.operation == "part", times=1)
        version = publish(store, folder)
        assert ModelRegistry(clean).verify(version) == []
        assert [call.operation for call in proxy.struck] == ["part"]


def test_a_body_that_breaks_off_is_asked_for_from_there(
    store: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path
):
    version = publish(store, folder)
    proxy.clear()
    proxy.plan(truncated(), where=lambda call: call.headers.get("Range") == f"bytes=0-{PART - 1}", times=1)
    ModelRegistry(store).pull(version, tmp_path / "pulled")
    assert contents(tmp_path / "pulled") == contents(folder)
    asked = [call.headers["Range"] for call in proxy.calls if download(call)]
    assert [span for span in asked if span.endswith(f"-{PART - 1}")] == [
        f"bytes={first}-{PART - 1}" for first in (0, PART // 2)
    ]


def test_a_full_disk_is_no_fault_of_the_network(
    store: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    version = publish(store, folder)
    proxy.clear()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    (out := tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match=r"No space left on device; .* are needed and"):
        ModelRegistry(store).pull(version, out / "pulled")
    assert proxy.most_repeated(download) == 1
    assert os.listdir(out) == []


class TestUploads:
    def test_a_failed_one_leaves_no_parts(self, store: S3Store, bucket, proxy: FaultProxy, folder: Path):
        proxy.plan(refused(403, "AccessDenied"), where=lambda call: call.operation == "part")
        with pytest.raises(StorageError, match="the role needs"):
            publish(store, folder)
        assert list(bucket.multipart_uploads.all()) == []

    def test_tidying_up_does_not_wait_for_a_server_that_is_gone(self, store: S3Store, proxy: FaultProxy, folder: Path):
        publish(store, folder)
        (folder / "model.safetensors").write_bytes(os.urandom(PART + 1))
        proxy.plan(refused(503, "SlowDown"), where=lambda call: call.operation in ("part", "abort"))
        impatient(store)
        with pytest.raises(TransientError, match="upload_part"):
            publish(store, folder, "another")
        assert [call.operation for call in proxy.calls].count("abort") == 1


class TestCredentials:
    @pytest.fixture
    def rotate(self, store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """Connects the store with credentials that have expired; to be called when the right ones are there."""
        right = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        file = tmp_path / "credentials"
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        for name in right:
            monkeypatch.delenv(name)

        def write(values: dict[str, str]) -> None:
            file.write_text("[default]\n" + "".join(f"{name.lower()} = {value}\n" for name, value in values.items()))

        write(dict.fromkeys(right, "OLD"))
        store.client.connected()
        return lambda: write(right)

    def test_new_ones_are_read_when_the_old_have_expired(
        self, store: S3Store, proxy: FaultProxy, folder: Path, rotate: Callable[[], None]
    ):
        proxy.plan(key_no_longer_valid("OLD"))
        rotate()

        def refused_calls() -> list[Call]:
            return [call for call in proxy.calls if "Credential=OLD/" in call.headers["Authorization"]]

        assert publish(store, folder).version == 1
        assert refused_calls()  # those under way meanwhile: as many as wrote at once, and more where they were repeated
        proxy.clear()
        (folder / "model.safetensors").write_bytes(os.urandom(PART + 1))
        assert publish(store, folder, "another").version == 2
        assert refused_calls() == []

    def test_a_repeated_request_takes_the_client_that_another_renewed(
        self, bucket, store: S3Store, proxy: FaultProxy, rotate: Callable[[], None]
    ):
        store = S3Store(bucket.name, "r", proxy.url, deadline=60.0)  # the reply waits for a client to be made
        old = store.client.connected()
        rotate()
        turn_away = refused(503, "SlowDown")

        async def renewed_meanwhile(call: Call, send: Send) -> Answer:
            store.client.connected(expired=old)
            return await turn_away(call, send)

        proxy.plan(renewed_meanwhile, times=1)
        proxy.plan(key_no_longer_valid("OLD"))
        assert store.read("a") is None
        assert ["Credential=OLD/" in call.headers["Authorization"] for call in proxy.calls] == [True, False]

    def test_without_new_ones_it_ends_at_once(self, store: S3Store, proxy: FaultProxy, rotate: Callable[[], None]):
        proxy.plan(key_no_longer_valid("OLD"))
        with pytest.raises(StorageError, match="credentials have expired"):
            store.read("a")
        assert len(proxy.calls) == 2


def test_twins_behind_a_faulty_network_make_one_version(
    store: S3Store, clean: S3Store, proxy: FaultProxy, folder: Path, tmp_path: Path
):
    """The commit's reply is lost for one, and its twin looks meanwhile."""
    proxy.plan(reset_after(), where=lambda call: call.spot == ("create", "versions"), times=1)
    first = publish(store, folder)
    assert publish(clean, folder) == first
    assert ModelRegistry(clean).versions("m") == [first]


def test_every_request_that_reaches_the_server_is_counted(store: S3Store, proxy: FaultProxy, folder: Path) -> None:
    before = patience.requests_sent()
    proxy.plan(reset_before, times=2)
    data = (folder / "model.safetensors").read_bytes()
    store.put_file(folder / "model.safetensors", "f", hashlib.sha256(data).hexdigest())
    store.get_file("f", folder / "back", hashlib.sha256(data).hexdigest())
    assert store.list("a") == []
    assert patience.requests_sent() - before == len(proxy.calls) > 6
