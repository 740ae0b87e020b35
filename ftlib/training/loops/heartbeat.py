"""Where each rank is, said every second in a file of the run's: who waits in vain reads who did not arrive.

In a bucket it is said every few seconds, and ages are the server's: no two machines' clocks are compared.

torch says only that a collective call took too long, and NCCL ends the process with that. Nobody needs a rank's main
thread to hear of it: a thread writes, so that a rank that hangs is told from one that is gone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType

import torch.distributed as dist

from ftlib.errors import ReglageError, TransientError, first_line
from ftlib.training.checkpoints.run_place import RunPlace

FOLDER = "ranks"
_EVERY_SECONDS = 1.0
_EVERY_SECONDS_IN_A_BUCKET = 3.0
_SILENT_SECONDS = 10.0
"""Without a sign for so long, a rank counts as gone."""
_OTHERS_SECONDS = 2.0
"""How long a rank that gave up waits for others to say the same: those who do not are the ones it waited for."""


@dataclass(frozen=True)
class Sign:
    """What a rank said last."""

    rank: int
    where: str
    seconds: float
    """How long it had been there."""
    gave_up: bool
    age: float
    """Seconds since it was said, by the clock of the file system, or of the store."""

    def __str__(self) -> str:
        if self.age > _SILENT_SECONDS:
            return self.last_heard
        return f"rank {self.rank} is {self.where}, for {self.seconds:.0f} s"

    @property
    def last_heard(self) -> str:
        """Say so of a rank that is known to be gone."""
        return f"rank {self.rank} was last heard of {self.age:.0f} s ago, {self.where}"


class Heartbeat:
    """One rank's signs, while the block runs; of a rank that is alone none."""

    def __init__(self, place: RunPlace, rank: int, world_size: int) -> None:
        """Say nothing yet."""
        self._place, self._rank, self._world_size = place, rank, world_size
        self._where, self._since, self._gave_up = "before its first step", time.monotonic(), False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        if self._rank == 0:  # a group that has become smaller
            with suppress(OSError, ReglageError):
                gone = [sign.rank for sign in signs(self._place) if sign.rank >= self._world_size]
                self._place.discard(*(f"{FOLDER}/{rank:05d}.json" for rank in gone))
        if self._world_size > 1:
            if self._place.is_shared:
                (self._place.folder / FOLDER).mkdir(parents=True, exist_ok=True)
            self._say()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._done.set()
            self._thread.join(_OTHERS_SECONDS if not self._place.is_shared else None)  # a bucket may not answer

    def at(self, where: str) -> None:
        """Remember where this rank is; the thread says it."""
        self._where, self._since = where, time.monotonic()

    @contextmanager
    def watching(self, phase: str) -> Generator[None]:
        """Turn torch's error of a collective call into one line that names the ranks that it was made for.

        Raises TransientError.
        """
        try:
            yield
        except RuntimeError as error:
            if self._world_size == 1 or not _is_of_a_collective_call(error):
                raise
            waited = time.monotonic() - self._since
            self._gave_up = True
            self._say()
            time.sleep(_OTHERS_SECONDS)
            others = "; ".join(map(str, self._missing())) or "all others gave up as well, so it may be the network"
            raise TransientError(
                f"phase {phase}: rank {self._rank} waited in vain {self._where}, after {waited:.0f} s "
                f"({first_line(error)[-120:]}): {others}. Look at that rank's node and log; raise "
                "compute.collective_timeout_seconds if what it does may take longer"
            ) from error

    def _missing(self) -> list[Sign]:
        """Return the last signs of the ranks that have not given up too: the silent ones, if any are, else all."""
        others = [sign for sign in signs(self._place) if sign.rank != self._rank and not sign.gave_up]
        silent = [sign for sign in others if sign.age > _SILENT_SECONDS]
        return silent or others

    def _beat(self) -> None:
        while not self._done.wait(_every(self._place)):
            self._say()

    def _say(self) -> None:
        sign = {"where": self._where, "seconds": time.monotonic() - self._since, "gave_up": self._gave_up}
        data, name = json.dumps(sign), f"{FOLDER}/{self._rank:05d}.json"
        with suppress(OSError, ReglageError):  # a full disk is told by what must be written
            if not self._place.is_shared:
                self._place.write(name, data.encode())
                return
            file = self._place.folder / name
            part = file.with_suffix(f".{threading.get_ident()}.part")
            part.write_text(data)
            part.replace(file)


def signs(place: RunPlace) -> list[Sign]:
    """Return what each rank of a run said last, in order of rank; ages are counted from the newest of them."""
    said: list[Sign] = []
    for one in place.aged(FOLDER):
        with suppress(ValueError):
            sign = json.loads(one.data)
            rank = int(one.name.partition(".")[0])
            said.append(Sign(rank, str(sign["where"]), float(sign["seconds"]), bool(sign["gave_up"]), one.seconds))
    return said


def lost(place: RunPlace, dead: Collection[int] = ()) -> list[Sign]:
    """Return the last signs of ranks that are dead, and of those that fell silent before the others did."""
    return [sign for sign in signs(place) if sign.rank in dead or sign.age > 2 * _every(place)]


def _every(place: RunPlace) -> float:
    return _EVERY_SECONDS if place.is_shared else _EVERY_SECONDS_IN_A_BUCKET


def _is_of_a_collective_call(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "ProcessGroup"))
