"""What the registry's tests share: a version to publish, a look at the store, processes that are killed."""

import itertools
import os
import signal
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import Store


def staged(folder: Path, files: dict[str, str], name: str = "m") -> tuple[Manifest, Path]:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    entries = tuple(file_of(folder, path) for path in sorted(files))
    return Manifest(name=name, description="", files=entries, metrics={}, lineage={}), folder


def fine(_: Path) -> None:
    pass


def publish(store: Store, tmp_path: Path, key: str, files: dict[str, str], check: Callable[[Path], None] = fine):
    manifest, folder = staged(tmp_path / f"staging-{key}-{threading.get_ident()}", files)
    return ModelRegistry(store).publish(manifest, folder, key, check, tmp_path)


FILES = {"model.safetensors": "weights", "config.json": "{}", "plots/a.png": "picture"}


def stored(store: Store, folder: str) -> list[str]:
    """Every object below a folder, read without the code under test's own bookkeeping."""
    names: list[str] = []
    for name in store.list(folder):
        names += stored(store, f"{folder}/{name[:-1]}") if name.endswith("/") else [f"{folder}/{name}"]
    return names


def copy(registry: Path, store: Store) -> None:
    """Put a registry's objects into a store: on S3 a tenth of the requests that publishing takes."""
    for path in sorted(path for path in registry.rglob("*") if path.is_file()):
        assert store.create(path.relative_to(registry).as_posix(), path.read_bytes())


def damage(store: Store, path: str) -> None:
    data = bytearray(store.read(path) or b"")
    data[0] ^= 1
    store.discard(path)
    store.create(path, bytes(data))


class Dying:
    """A store whose process dies before (even) or after (odd) the nth call to it."""

    def __init__(self, store: Store, point: int) -> None:
        self.store, self.point, self.calls, self.uri = store, point, itertools.count(), store.uri

    def __getattr__(self, name: str):
        def call(*arguments, **options):
            n = next(self.calls)
            die_if(2 * n == self.point)
            result = getattr(self.store, name)(*arguments, **options)
            die_if(2 * n + 1 == self.point)
            return result

        return call


def die_if(now: bool) -> None:
    if now:
        os.kill(os.getpid(), signal.SIGKILL)


def dying_step(real: Callable[..., object], steps: Iterator[int], point: int) -> Callable[..., object]:
    def step(*arguments: object, **options: object) -> object:
        die_if(next(steps) == point)
        return real(*arguments, **options)

    return step


def child(call: Callable[[], None]) -> int:
    """Start a process and return its id. A fork, since hundreds of imports would take minutes."""
    if (pid := os.fork()) == 0:
        try:
            call()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    return pid


def exit_code(pid: int) -> int:
    """Wait for a child; negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def openssl(*words: str, input: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=input, capture_output=True, check=True).stdout


def make_keys(folder: Path, name: str, curve: str = "P-256") -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{curve}", "-out", str(private))
    openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public
