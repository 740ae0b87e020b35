"""What every store promises, and what each promises alone."""

import errno
import fcntl
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

import ftlib.storage.cloud as cloud_module
import ftlib.storage.s3 as s3_module
from ftlib.errors import IntegrityError, StorageError, TransientError
from ftlib.storage import LocalStore, Place, S3Store, Store, open_store, safe_relpath
from tests.ftlib.conftest import BUCKETS, bucket_store


@pytest.fixture(params=["local", *BUCKETS])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store") if request.param == "local" else bucket_store(request.param, request)


PART = 5 * 2**20  # the least that S3 takes for a part that is not the last


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file(folder: Path, data: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(data)
    return path


class TestEvery:
    def test_absent_is_none_or_empty(self, store: Store):
        assert (store.read("a/b"), store.size("a/b"), store.list("a")) == (None, None, [])

    def test_create_writes_once(self, store: Store):
        assert store.create("a/b", b"first")
        assert not store.create("a/b", b"second")
        assert store.read("a/b") == b"first"
        assert store.size("a/b") == 5

    def test_an_empty_object_is_created_only_once_too(self, store: Store):
        assert store.create("empty", b"")
        assert not store.create("empty", b"x")
        assert store.read("empty") == b""

    def test_what_is_written_replaces_what_is_there(self, store: Store):
        for data in (b"first, and longer", b"second", b""):
            store.write("a/b", data)
            assert store.read("a/b") == data
        assert not store.create("a/b", b"third")
        assert store.list("a") == ["b"]

    def test_a_range_ends_with_the_object(self, store: Store):
        store.create("a/b", data := bytes(range(100)))
        store.create("a/empty", b"")
        for start, count in ((0, 100), (0, 1), (7, 20), (99, 1), (90, 50), (100, 5), (4000, 5), (0, 0), (5, 0)):
            assert store.read_range("a/b", start, count) == data[start : start + count], (start, count)
        assert store.read_range("a/empty", 0, 10) == b""
        with pytest.raises(IntegrityError, match="is missing"):
            store.read_range("a/absent", 0, 10)

    def test_of_many_creators_one_wins(self, store: Store):
        for round in range(5):
            with ThreadPoolExecutor(16) as pool:
                won = list(pool.map(lambda n, r=round: store.create(f"race/{r}", b"%d" % n), range(16)))
            assert won.count(True) == 1
            assert store.read(f"race/{round}") == b"%d" % won.index(True)

    def test_list_names_one_level_and_sees_what_another_client_just_wrote(self, store: Store, s3_endpoint: str):
        store.create("a/1", b"x")
        assert store.list("a") == ["1"]
        other = open_store(Place.parse(store.uri, s3_endpoint))
        other.create("a/2", b"x")
        other.create("a/deep/3", b"x")
        other.create("ab/4", b"x")
        assert store.list("a") == ["1", "2", "deep/"]

    @pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART + 1234])
    def test_files_go_and_come_back_whatever_their_size(
        self, store: Store, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(s3_module, "PART_BYTES", PART)
        monkeypatch.setattr(cloud_module, "PART_BYTES", PART)
        monkeypatch.setattr(s3_module, "RANGE_BYTES", PART)
        monkeypatch.setattr(s3_module, "HASH_BYTES", 2**16 + 1)  # divides no part
        data = os.urandom(size)
        store.put_file(file(tmp_path, data), "f", sha(data))
        store.get_file("f", tmp_path / "back", sha(data))
        assert (tmp_path / "back").read_bytes() == data
        assert store.size("f") == size

    def test_a_file_that_changed_since_it_was_hashed_is_not_stored(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        for part in (10, 10_000):
            monkeypatch.setattr(s3_module, "PART_BYTES", part)
            monkeypatch.setattr(cloud_module, "PART_BYTES", part)
            with pytest.raises(IntegrityError, match="its bytes were changed"):
                store.put_file(file(tmp_path, b"now something else, of 30 bytes"), "f", sha(b"what was hashed"))
            assert store.size("f") is None

    def test_a_damaged_or_missing_file_never_appears(self, store: Store, tmp_path: Path):
        store.create("f", b"damaged")
        (folder := tmp_path / "target").mkdir()
        for name in ("f", "absent"):
            with pytest.raises(IntegrityError):
                store.get_file(name, folder / "x", sha(b"right"))
        assert list(folder.iterdir()) == []

    def test_paths_cannot_leave(self, store: Store, tmp_path: Path):
        for call in (
            lambda: store.read("../x"),
            lambda: store.create("/x", b""),
            lambda: store.list(".."),
            lambda: store.get_file("a/../../x", tmp_path / "x", sha(b"")),
        ):
            with pytest.raises(StorageError, match="not a safe path"):
                call()

    def test_discarding_twice_is_as_good_as_once(self, store: Store):
        store.create("a", b"x")
        assert store.discard("a")
        assert store.read("a") is None
        assert store.discard("a")


@given(st.text(max_size=30))
def test_a_path_that_is_let_through_stays_inside(path: str):
    root = Path("/root/of/it")
    try:
        safe = safe_relpath(path)
    except StorageError:
        return
    resolved = Path(os.path.normpath(root / safe))
    assert safe == path
    assert root in resolved.parents


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "a/./b", "../a", "a/..", "a\\..\\b", "c:x", "a\nb", "a\0"]
)
def test_paths_that_lead_out_of_the_store_are_refused(path: str):
    with pytest.raises(StorageError, match="not a safe path"):
        safe_relpath(path)


@pytest.mark.parametrize("uri", ["az://bucket/x", "s3://", "s3:///", "http://host/x"])
def test_other_schemes_are_refused(uri: str):
    with pytest.raises(StorageError, match="allowed are a folder's path, s3://bucket/prefix"):
        open_store(Place.parse(uri))


def test_uris_open_what_they_say(tmp_path: Path, s3_credentials: None):
    assert open_store(Place.parse(str(tmp_path))).uri == str(tmp_path)
    assert open_store(Place.parse("s3://b")).uri == "s3://b"
    assert open_store(Place.parse("s3://b/p/q/")).uri == "s3://b/p/q"


# Needs a mount namespace of our own, so that nothing is ever mounted for anyone else. Elsewhere the limit of the kernel
# and a folder without write permission stand in: the same errors by other means.
MOUNTS = ["full", "read-only"] if subprocess.run(["unshare", "--mount", "true"]).returncode == 0 else []
PRELUDE = """
import hashlib, re, subprocess, sys
from pathlib import Path
from ftlib.errors import StorageError
from ftlib.storage import LocalStore
folder = Path(sys.argv[1], "mounted")
folder.mkdir()

def mount(*options):
    subprocess.run(["mount", *options, str(folder)], check=True)

def refusal(call, *arguments):
    try:
        call(*arguments)
    except StorageError as error:
        return str(error)
"""
ON_MOUNTS = {
    "full": PRELUDE
    + """
mount("-t", "tmpfs", "-o", "size=64k", "tmpfs")
store = LocalStore(folder)
assert store.create("old", b"kept")
big = Path(sys.argv[1], "big")
big.write_bytes(b"x" * 200_000)
message = refusal(store.put_file, big, "new", hashlib.sha256(b"x" * 200_000).hexdigest())
assert re.search(r"No space left on device; 200 kB are needed and [0-9.]+ kB are free", message), message
assert store.read("old") == b"kept"
assert [p.name for p in folder.rglob("*") if p.is_file()] == ["old"]
""",
    "read-only": PRELUDE
    + """
mount("-t", "tmpfs", "tmpfs")
LocalStore(folder).create("old", b"kept")
mount("-o", "remount,ro")
assert LocalStore(folder).read("old") == b"kept"
message = refusal(LocalStore(folder).create, "new", b"x")
assert "Read-only file system; nothing can be written there: mount it writable" in message, message
""",
}


class TestLocal:
    def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_kept(self, tmp_path: Path):
        script = f"""
import os, signal
from pathlib import Path
from ftlib.storage import LocalStore
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LocalStore(Path({str(tmp_path)!r})).create("a", b"x" * 1000)
"""
        assert subprocess.run([sys.executable, "-c", script]).returncode == -9
        assert len(list((tmp_path / ".tmp").iterdir())) == 1
        writing = LocalStore(tmp_path)
        with writing._temporary() as (mine, _):
            assert list((tmp_path / ".tmp").iterdir()) == [mine]
            LocalStore(tmp_path).create("b", b"y")
            assert mine.exists()
        assert list((tmp_path / ".tmp").iterdir()) == []

    def test_leftovers_on_nfs_which_locks_a_file_alone_only_for_who_may_write_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        flock = fcntl.flock

        def of_nfs(stream: BinaryIO, how: int) -> None:
            mode = fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE
            if mode == (os.O_RDONLY if how & fcntl.LOCK_EX else os.O_WRONLY):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(stream, how)

        monkeypatch.setattr(fcntl, "flock", of_nfs)
        (tmp_path / ".tmp").mkdir()
        (dead := tmp_path / ".tmp" / "host-1-x").write_bytes(b"half")
        store = LocalStore(tmp_path)
        with LocalStore(tmp_path / "other")._temporary() as (living, _):
            living.rename(tmp_path / ".tmp" / "living")
            assert store.leftovers(remove=False) == [".tmp/host-1-x"]
            assert dead.exists()
            assert store.create("a", b"x")
            assert not dead.exists()
            assert (tmp_path / ".tmp" / "living").exists()

    @pytest.mark.parametrize("nfs", [False, True])
    def test_leftovers_that_another_user_may_write_alone_stop_nobody(
        self, tmp_path: Path, nfs: bool, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / ".tmp").mkdir()
        (dead := tmp_path / ".tmp" / "host-1-x").write_bytes(b"half")
        path_open, flock = Path.open, fcntl.flock

        def opened(path: Path, mode: str = "r", *given: Any, **options: Any) -> Any:
            if path == dead and "+" in mode:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return path_open(path, mode, *given, **options)

        def locked(stream: BinaryIO, how: int) -> None:
            if nfs and stream.name == str(dead):
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            flock(stream, how)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(fcntl, "flock", locked)
        assert LocalStore(tmp_path).create("a", b"x")
        assert dead.exists() is nfs

    @pytest.mark.parametrize("write", ["create", "put_file"])
    def test_a_full_disk_is_one_line_and_leaves_nothing(self, tmp_path: Path, write: str):
        """With a real limit of the kernel, in a process of its own."""
        store, data = LocalStore(tmp_path / "store"), b"x" * 200_000
        source = file(tmp_path, data)

        def beyond_the_limit() -> object:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            return store.create("a/b", data) if write == "create" else store.put_file(source, "a/b", sha(data))

        message = refusal_in_a_child(beyond_the_limit)
        left = [p.name for p in (tmp_path / "store").rglob("*") if p.is_file()]
        assert "File too large" in message
        assert "200 kB are needed" in message
        assert left == []

    @pytest.mark.parametrize("mount", MOUNTS)
    def test_a_full_disk_and_a_read_only_one_for_real(self, tmp_path: Path, mount: str):
        done = subprocess.run(
            ["unshare", "--mount", sys.executable, "-c", ON_MOUNTS[mount], str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def test_a_folder_of_someone_else(self):
        # not tmp_path, which lies below a folder that only we may enter
        folder = Path(tempfile.mkdtemp(prefix="reglage-test-"))
        LocalStore(folder).create("old", b"kept")
        for path in (folder, folder / ".tmp"):
            path.chmod(0o555)

        def as_nobody() -> object:
            if os.geteuid() == 0:  # root ignores modes
                os.setgroups([])
                os.setuid(65534)
            return LocalStore(folder).create("new", b"x")

        message = refusal_in_a_child(as_nobody)
        shutil.rmtree(folder)
        assert "Permission denied; this user may not: change its permissions or choose another place" in message

    def test_a_folder_in_the_way(self, tmp_path: Path):
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="Not a directory"):
            LocalStore(tmp_path / "file").create("a", b"x")


def refusal_in_a_child(call: Callable[[], object]) -> str:
    """What the call says in a process of its own, whose limits and rights can be taken away for good."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            call()
        except StorageError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


class TestS3:
    def test_a_missing_bucket_is_not_an_empty_one(self, s3_endpoint: str, s3_credentials: None):
        store = S3Store("no-such-bucket", "", s3_endpoint)
        for call in (lambda: store.list("a"), lambda: store.create("a", b""), lambda: store.read("a")):
            with pytest.raises(StorageError, match="create the bucket"):
                call()

    def test_an_endpoint_where_nobody_is(self, s3_credentials: None):
        with pytest.raises(TransientError, match="check the endpoint"):
            S3Store("b", "", "http://127.0.0.1:9", deadline=0.5).list("a")

    def test_without_credentials_the_variables_to_set_are_named(
        self, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
            S3Store("b", "", s3_endpoint).create("a", b"")

    def test_an_object_that_goes_or_shrinks_while_it_is_read_is_named(
        self, s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        s3_store.create("short", b"abc")
        monkeypatch.setattr(s3_store, "size", lambda _: 6)
        monkeypatch.setattr(s3_module, "RANGE_BYTES", 4)
        for path in ("gone", "short"):
            with pytest.raises(IntegrityError, match=f"/{path} was replaced or removed while it was read; run again"):
                s3_store.get_file(path, tmp_path / path, "0" * 64)
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_upload_leaves_no_parts_behind(
        self, s3_store: S3Store, bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(s3_module, "PART_BYTES", 1000)
        with pytest.raises(IntegrityError):
            s3_store.put_file(file(tmp_path, os.urandom(5000)), "f", sha(b"else"))
        assert list(bucket.multipart_uploads.all()) == []

    def test_a_server_that_says_of_what_is_deleted_that_it_is_not_there(
        self, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch
    ):
        def delete(*_: object, **__: object) -> None:
            raise ClientError({"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPStatusCode": 404}}, "DeleteObject")

        monkeypatch.setattr(s3_store.client.connected(), "delete_object", delete)
        assert s3_store.discard("a/b")

    def test_long_listings_are_read_to_the_end(self, s3_store: S3Store, bucket, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("ftlib.storage.s3_client.NAMES_AT_ONCE", 3)
        for n in range(11):
            bucket.put_object(Key=f"registry/many/{n:04d}", Body=b"")
        assert s3_store.list("many") == [f"{n:04d}" for n in range(11)]
