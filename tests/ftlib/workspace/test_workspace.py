"""What the operating system refuses a workspace is one line in its own words, and a work folder is its user's alone."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from ftlib.errors import StorageError, TransientError
from ftlib.fingerprint import Job
from ftlib.progress import NOTE, Progress, listen
from ftlib.registry.outcome import Refusal
from ftlib.storage import LocalStore
from ftlib.storage.files import in_bytes, local_errors, private_folder
from ftlib.workspace import Workspace, exclusive, make_cache, user_cache, write_durably


class Stage(Job):
    stage: ClassVar[str] = "stage"
    version: ClassVar[int] = 1

    name: str = "one"


def built(work: Workspace, error: BaseException) -> Refusal:
    def build(folder: Path) -> Refusal:
        raise error

    return work.once(Stage(), Refusal, build)


WORDS = {
    errno.ENOSPC: r"are free: free space there or choose another --work",
    errno.EDQUOT: r"quota is used up: free space there or choose another --work",
    errno.EROFS: r"mount it writable or choose another --work",
    errno.EACCES: r"change its permissions or choose another --work",
    errno.EPERM: r"change its permissions or choose another --work",
    errno.ENAMETOOLONG: r"shorten the name or choose another --work",
    errno.EMFILE: r"too many files open: raise the limit \(`ulimit -n`\)",
    errno.ENFILE: r"too many files open: raise its limit",
    errno.ENOENT: r"put it back and try again",
    errno.ENOTDIR: r"a file stands where a folder is needed",
    errno.EIO: r"the disk could not read or write",
    errno.ESTALE: r"mount it again",
    errno.ENOTEMPTY: r"; choose another --work$",
}


@pytest.mark.parametrize("number", WORDS, ids=errno.errorcode.get)
def test_each_refusal_has_its_own_words_and_only_a_full_disk_is_said_to_be_full(tmp_path: Path, number: int) -> None:
    with pytest.raises(StorageError) as caught:
        built(Workspace(tmp_path), OSError(number, os.strerror(number), "/models/base/model.safetensors"))
    said = str(caught.value)
    assert said.startswith(f"/models/base/model.safetensors: {os.strerror(number)}; ")
    assert re.search(WORDS[number], said)
    assert ("free space" in said) == (number in (errno.ENOSPC, errno.EDQUOT))
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), TimeoutError(errno.ETIMEDOUT, "timed out"),
     socket.gaierror(socket.EAI_NONAME, "Name or service not known")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_the_network_is_no_disk_and_worth_another_attempt(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(TransientError, match=r"stage: the network failed: .*; try again"):
        built(Workspace(tmp_path), error)


def test_what_is_nobodys_refusal_passes_as_it_is(tmp_path: Path) -> None:
    for error in (OSError("a library's own words"), BrokenPipeError(errno.EPIPE, "Broken pipe"), ValueError("wrong")):
        with pytest.raises(type(error)) as caught:
            built(Workspace(tmp_path), error)
        assert caught.value is error


def test_the_systems_error_in_the_words_of_a_library_written_in_rust(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    (tmp_path / "file").write_text("")

    def build(folder: Path) -> Refusal:
        save_file({"a": np.zeros(3)}, tmp_path / "file" / "model.safetensors")
        return Refusal(reasons=())

    with pytest.raises(StorageError, match="Not a directory; a file stands where a folder is needed"):
        Workspace(tmp_path / "work").once(Stage(), Refusal, build)


@pytest.mark.parametrize("act", ["lock", "write", "find"])
def test_a_name_too_long_and_a_file_in_the_way(tmp_path: Path, act: str) -> None:
    (tmp_path / "file").write_text("")
    acts = {
        "lock": lambda root: exclusive(root / "a.lock", wait=False).__enter__(),
        "write": lambda root: write_durably(root / "a.json", b"{}"),
        "find": lambda root: Workspace(root).find(Stage(), Refusal),
    }
    for root, said in ((tmp_path / ("x" * 300), "File name too long; shorten"), (tmp_path / "file", "Not a directory")):
        if act == "find" and root.name == "file":
            assert Workspace(root).find(Stage(), Refusal) is None
            continue
        with pytest.raises(StorageError, match=said):
            acts[act](root)


def test_bytes_are_written_with_digits_that_count() -> None:
    said = {0: "no bytes", 1: "1 byte", 984: "984 bytes", 1_000: "1.00 kB", 12_345: "12.3 kB", 999_499: "999 kB",
            999_600: "1.00 MB", 4_560_000_000: "4.56 GB", 5 * 10**15: "5000 TB"}  # fmt: skip
    assert {count: in_bytes(count) for count in said} == said


def mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


@pytest.fixture
def usual_umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_work_folder_and_a_cache_are_their_users_alone(tmp_path: Path, usual_umask, monkeypatch) -> None:
    work = Workspace(tmp_path / "deep" / "work")
    work.once(Stage(), Refusal, lambda _: Refusal(reasons=("no",)))
    assert {mode(path) for path in (tmp_path / "deep").rglob("*") if path.is_dir()} == {"700"}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert mode(make_cache(user_cache() / "versions")) == mode(user_cache()) == mode(tmp_path / "cache") == "700"


def test_a_file_that_two_write_at_once_is_whole_and_no_writer_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads, or two pods on one disk, whose processes have one number."""
    fsync, seen = os.fsync, list[bytes]()

    def slow(descriptor: int) -> None:
        if not seen:
            seen.append(b"")
            write_durably(tmp_path / "a.json", b"the other's")
            seen[0] = (tmp_path / "a.json").read_bytes()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    write_durably(tmp_path / "a.json", b"ours, and longer")
    assert seen == [b"the other's"]
    assert (tmp_path / "a.json").read_bytes() == b"ours, and longer"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_folder_that_somebody_opened_stays_open_and_what_is_made_in_it_is_closed(tmp_path: Path, usual_umask) -> None:
    (tmp_path / "work").mkdir()
    write_durably(tmp_path / "work" / "stages" / "a.json", b"{}")
    assert (mode(tmp_path / "work"), mode(tmp_path / "work" / "stages")) == ("755", "700")


@pytest.mark.parametrize(("umask", "made"), [(0o002, "2770"), (0o022, "2750"), (0o077, "2700")])
def test_below_a_folder_that_a_group_shares_the_umask_decides(
    tmp_path: Path, usual_umask, umask: int, made: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work").chmod(0o2775)
    os.umask(umask)
    private_folder(tmp_path / "work" / "stages" / "train")
    assert mode(tmp_path / "work" / "stages" / "train") == made


def test_a_registry_is_for_all_whom_the_umask_lets_in(tmp_path: Path, usual_umask) -> None:
    LocalStore(tmp_path / "registry").create("models/m/1.json", b"{}")
    assert mode(tmp_path / "registry" / "models" / "m") == "755"
    assert mode(tmp_path / "registry" / "models" / "m" / "1.json") == "644"


def test_without_a_home_there_is_one_line(monkeypatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("uid")))
    with pytest.raises(StorageError, match="set HOME or XDG_CACHE_HOME"):
        user_cache()


def test_a_cache_that_cannot_be_names_the_variable(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"Not a directory; .*set XDG_CACHE_HOME to another folder"):
        make_cache(user_cache())


def test_an_error_that_is_ours_is_told_as_it_is() -> None:
    with pytest.raises(StorageError, match=r"^hub: gone \(os error 2\)$"), local_errors(Path("x")):
        raise StorageError("hub: gone (os error 2)")


def test_a_stage_that_waits_says_for_whom(tmp_path: Path) -> None:
    work, said = Workspace(tmp_path), list[str]()
    lock = work.folder(Stage()).with_suffix(".lock")
    held = ExitStack()
    held.enter_context(exclusive(lock, wait=False))

    def hear(sign: Progress) -> None:
        if sign.unit == NOTE:
            said.append(sign.text)
            held.close()  # else it would wait for ever

    with listen(hear), held:
        work.once(Stage(), Refusal, lambda _: Refusal(reasons=("no",)))
    (line,) = said
    assert re.fullmatch(
        rf"{lock.stem} is being made by process {os.getpid()} since [-\d]+ [:\d]+: waiting for it", line
    )


def test_a_record_of_another_class_is_not_written(tmp_path: Path) -> None:
    class More(Refusal):
        more: str = "of what a record of its kind has"

    work = Workspace(tmp_path)
    with pytest.raises(TypeError, match="stage made a More, and its record is a Refusal"):
        work.once(Stage(), Refusal, lambda _: More(reasons=("no",)))
    assert not work.has(Stage())
