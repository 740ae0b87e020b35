"""A registry on a disk that is full, read-only or somebody else's: reading goes on, a refusal is one line."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlib.errors import StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.storage import LocalStore
from tests.ftlib.registry.kit import FILES, child, exit_code, fine, publish, staged

# A real mount needs the right to make a mount namespace; where there is none, the other tests make the same errors.
MOUNTS = ["full", "read-only"] if subprocess.run(["unshare", "--mount", "true"]).returncode == 0 else []
PRELUDE = """
import subprocess, sys
from pathlib import Path
from ftlib.errors import StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.garbage_collection import Collector
from ftlib.registry.fsck import fsck
from ftlib.storage import LocalStore
from tests.ftlib.registry.kit import FILES, publish

work = Path(sys.argv[1])
root = work / "mounted"
root.mkdir()

def mount(*options):
    subprocess.run(["mount", *options, str(root)], check=True)

def refusal(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except StorageError as error:
        assert "\\n" not in str(error)
        return str(error)
"""
ON_MOUNTS = {
    "full": """
mount("-t", "tmpfs", "-o", "size=200k", "tmpfs")
version, _ = publish(LocalStore(root), work, "a", FILES)
message = refusal(publish, LocalStore(root), work, "b", {"big": "x" * 300_000})
assert "No space left on device; 300 kB are needed" in message, message
registry = ModelRegistry(LocalStore(root))
assert [v.key for v in registry.versions("m")] == ["a"]
assert registry.verify(version) == []
assert fsck(registry, deep=True).faults == fsck(registry).temporary == ()
assert registry.promote("m", "champion", 1, None, "ann", "").sequence == 1
""",
    "read-only": """
mount("-t", "tmpfs", "tmpfs")
version, _ = publish(LocalStore(root), work, "a", FILES)
ModelRegistry(LocalStore(root)).promote("m", "champion", 1, None, "ann", "")
mount("-o", "remount,ro")
registry = ModelRegistry(LocalStore(root))
assert registry.resolve("m@champion") == version
assert registry.pull(version, work / "out")
assert registry.verify(version) == []
assert fsck(registry, deep=True).faults == ()
assert Collector(registry).collect().deleted == ()
for call, arguments in (
    (publish, (LocalStore(root), work, "b", FILES)),
    (registry.promote, ("m", "canary", 1, None, "ann", "")),
    (Collector(registry).collect, ()),
):
    message = refusal(call, *arguments, **({} if arguments else {"delete": True}))
    assert "Read-only file system; nothing can be written there: mount it writable" in message, (call, message)
mount("-o", "remount,rw")
assert publish(LocalStore(root), work, "b", {"a": "b"})[0].version == 2
""",
}


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_mount_that_is_full_or_read_only_is_told_in_one_line(tmp_path: Path, mount: str):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", PRELUDE + ON_MOUNTS[mount], str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr


def test_a_full_disk_publishes_nothing_and_keeps_what_is_there(tmp_path: Path):
    """By the kernel's limit on a file's size, in a process of its own."""
    store = LocalStore(tmp_path / "r")
    version, _ = publish(store, tmp_path, "a", FILES)

    manifest, folder = staged(tmp_path / "big", {"big": "x" * 200_000})

    def beyond_the_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the kernel kills instead of refusing
        refused(lambda: ModelRegistry(store).publish(manifest, folder, "b", fine, tmp_path))

    assert exit_code(child(beyond_the_limit)) == 0
    registry = ModelRegistry(store)
    assert [found.key for found in registry.versions("m")] == ["a"]
    assert registry.verify(version) == []
    examined = fsck(registry, deep=True)
    assert examined.faults == examined.temporary == ()


def test_a_folder_of_someone_else():
    place = Path(tempfile.mkdtemp(prefix="reglage-test-"))  # not tmp_path, which only we may enter
    try:
        place.chmod(0o755)
        store = LocalStore(place / "r")
        version, _ = publish(store, place, "a", FILES)
        for folder in (place / "r", *(path for path in (place / "r").rglob("*") if path.is_dir())):
            folder.chmod(0o555)

        def as_nobody() -> None:
            if os.geteuid() == 0:  # root ignores modes
                os.setgroups([])
                os.setuid(65534)
            registry = ModelRegistry(LocalStore(place / "r"))
            assert registry.version("m") == version
            assert fsck(registry).faults == ()
            refused(lambda: registry.promote("m", "champion", 1, None, "ann", ""))

        assert exit_code(child(as_nobody)) == 0
        assert ModelRegistry(store).alias("m", "champion") is None
    finally:
        shutil.rmtree(place)


def refused(call: Callable[[], object]) -> None:
    with pytest.raises(StorageError) as error:
        call()
    assert "\n" not in str(error.value)
    assert "choose another place" in str(error.value)
