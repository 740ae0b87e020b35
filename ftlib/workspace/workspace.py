"""The work place: a folder where an output appears by one rename, and flock keeps two from making it; or a bucket.

<root>/stages/<stage>/<fingerprint>/      data, and artifact.json written last; appears by one rename
<root>/stages/<stage>/<fingerprint>.lock  held (flock) while it is being made; the kernel frees it on kill -9. Its time
                                          of change is when somebody last asked for the output
<root>/stages/<stage>/<fingerprint>.work  what a killed attempt left: wiped, or resumed by a stage that can

A bucket's is `ftlib.workspace.in_bucket`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import BaseModel

from ftlib.artifacts import Artifact
from ftlib.config import user_path
from ftlib.fingerprint import Job
from ftlib.storage import LocalStore, Place, Store
from ftlib.storage.files import flush_folder, flush_tree, local_errors, private_folder
from ftlib.storage.locks import exclusive
from ftlib.storage.place import is_remote
from ftlib.storage.user_cache import another_disk
from ftlib.workspace.building import built
from ftlib.workspace.records import RECORD, read_record, write_durably
from ftlib.workspace.users import enter

A = TypeVar("A", bound=Artifact)
M = TypeVar("M", bound=BaseModel)


class Workspace:
    """A folder that every worker of a cluster sees under the same path, or a prefix of a bucket (`InBucket`).

    Credentials, region and server of a bucket come from the environment, as every AWS tool reads them.
    """

    _in_bucket: ClassVar[type[Workspace]]

    def __init_subclass__(cls) -> None:
        """Take the class that keeps it in a bucket, which is derived from this one."""
        Workspace._in_bucket = cls

    def __new__(cls, root: str | Path, kms_key: str | None = None) -> Workspace:
        """Open it as what it is, as `pathlib.Path` does."""
        return object.__new__(cls._in_bucket if is_remote(str(root)) else Workspace)

    def __init__(self, root: str | Path, kms_key: str | None = None) -> None:
        """Take where it is, and what a bucket's store encrypts with (`ftlib.storage.encryption`)."""
        self.place = Place("", "", str(user_path(root).absolute()))

    def __reduce__(self) -> tuple[type[Workspace], tuple[str, str | None]]:
        """Travel as where it is: connections and locks stay."""
        return Workspace, (self.place.uri, self.place.kms_key)

    def __str__(self) -> str:
        return self.place.uri

    @property
    def store(self) -> Store | None:
        """Return the bucket's store; None for a folder."""
        return None

    @property
    def root(self) -> Path:
        """Return the folder; of a bucket, this node's view of it."""
        return Path(self.place.key)

    def exists(self) -> bool:
        """Say whether anything was made here yet."""
        return self.root.is_dir()

    def folder(self, job: Job) -> Path:
        """Return where the job's output is on this machine, or will be."""
        return self.root / "stages" / job.stage / job.fingerprint

    def uri(self, job: Job) -> str:
        """Return where the job's output is, or will be, for every machine."""
        return str(self.folder(job))

    def find(self, job: Job, kind: type[A]) -> A | None:
        """Return the job's finished artifact, or None. Raises StorageError for a record that cannot be read."""
        return read_record(self.folder(job), kind)

    def has(self, job: Job) -> bool:
        """Say whether the job's output is there, without reading its record."""
        record = self.folder(job) / RECORD
        with local_errors(record, elsewhere=another_disk(record)):
            return record.is_file()

    def making(self, job: Job) -> str | None:
        """Return what tells one making of the job's output from the next; None where there is none."""
        record = self.folder(job) / RECORD
        return str(record.stat().st_mtime_ns) if record.is_file() else None

    def forget(self, job: Job) -> None:
        """Take a record away that no longer holds: its output is absent then, and made again when asked for."""
        (self.folder(job) / RECORD).unlink(missing_ok=True)

    def touch(self, job: Job) -> None:
        """Say that a finished output is used, for whoever finds it without asking for it to be made."""
        enter(self.root)
        with exclusive(self.folder(job).with_suffix(".lock"), wait=True):
            pass

    def once(self, job: Job, kind: type[A], build: Callable[[Path], A], *, resumable: bool = False) -> A:
        """Return the job's artifact, building it at most once however many processes and machines ask.

        `build` gets an empty folder (or, if `resumable`, what the last attempt left on this machine) and returns the
        record; it may fail or be killed at any point without anything becoming visible. Of two machines that do not
        hear of each other both may build, and one's record counts. Raises StorageError where a file cannot be read or
        written, TransientError where the network failed.
        """
        final = self.folder(job)
        enter(self.root)
        with exclusive(final.with_suffix(".lock"), wait=True, waiter=job.stage):
            if (done := read_record(final, kind)) is not None:
                return done
            work = final.with_suffix(".work")
            record = built(job, kind, build, work, str(final), resumable=resumable)
            with local_errors(final, elsewhere=another_disk(final)):
                flush_tree(work)  # before the record: after a power cut it would stand beside empty files
            write_durably(work / RECORD, record.model_dump_json(indent=1).encode())
            with local_errors(final, elsewhere=another_disk(final)):
                if final.exists():  # a record-less folder: someone deleted artifact.json by hand
                    shutil.rmtree(final)
                work.rename(final)
                flush_folder(final.parent)
            return record

    def shared(self, relative: str | Path) -> Path:
        """Return the local path of a file whose name says its content, fetched if another machine has shared it.

        It may not be there.
        """
        return self.root / relative

    def newest(self, relative: str | Path) -> Path:
        """Return the local path of a file that is overwritten, fetched as it is now; it may not be there."""
        return self.root / relative

    def share(self, relative: str | Path) -> None:
        """Let every machine have a file of `root` whose name says its content; who was first counts."""

    def replace(self, relative: str | Path) -> None:
        """Let every machine have a file of `root` that is overwritten: the newest counts, and nothing depends on it."""

    def names(self, folder: str | Path) -> list[str]:
        """Return the names of what is in a folder of shared or overwritten files, sorted; folders have a `/` behind."""
        return LocalStore(self.root).list(Path(folder).as_posix())

    def carry(self, folder: Path) -> str:
        """Return a reference by which every node reads a folder of this machine, uploaded if it must be."""
        return str(folder)

    def carried(self, value: M) -> M:
        """Return a value whose every `uri` can be read by every node: folders of this machine are carried."""
        return value

    def drop(self, relative: str | Path) -> None:
        """Delete a file that was shared or overwritten, if it is there; one that this role may not delete stays."""
        (self.root / relative).unlink(missing_ok=True)

    def hold(self, relative: str, *, wait: bool, waiter: str = "") -> AbstractContextManager[None]:
        """Hold a name alone among all processes and machines; a `waiter` says for whom it waits.

        Raises BusyError if it is held and `wait` is false.
        """
        lock = self.root / relative
        with local_errors(lock, elsewhere=another_disk(lock)):
            private_folder(lock.parent)
        return exclusive(lock.with_name(f"{lock.name}.lock"), wait=wait, waiter=waiter)
