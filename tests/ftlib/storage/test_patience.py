"""How long requests are repeated: as long as the outage lasts, up to the deadline, however many need an answer."""

from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from ftlib.errors import TransientError
from ftlib.storage import patience
from ftlib.storage.patience import FIRST_PATIENCE, LONGEST_PAUSE, STALE_SECONDS, Patient

DEADLINE = 100.0


class Service(Patient):
    """One that is away between two moments of a clock that moves only while somebody waits."""

    def __init__(self) -> None:
        super().__init__(DEADLINE)
        self.now, self.away, self.asked = 0.0, range(0), 0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def connect(self) -> object:
        return object()

    def has_expired(self, error: Exception) -> bool:
        return False

    def meaning(self, error: Exception, what: str) -> Exception:
        return TransientError(what) if isinstance(error, ConnectionError) else FileNotFoundError(what)

    def ask(self, *, absent: bool = False) -> float:
        """Send a request; return how many seconds went by until its answer, or until it was given up."""

        def answer(_: Any) -> None:
            self.asked += 1
            if int(self.now) in self.away:
                raise ConnectionError
            if absent:
                raise KeyError

        began = self.now
        with suppress(TransientError, FileNotFoundError):
            self.retry("asking", answer)
        return self.now - began

    def is_there(self) -> bool:
        return int(self.now) not in self.away


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr(patience, "time", SimpleNamespace(monotonic=lambda: service.now, sleep=service.sleep))
    monkeypatch.setattr(patience.random, "uniform", lambda low, high: high)
    return service


@pytest.mark.parametrize("seconds", [1, 30, 80])
def test_an_outage_shorter_than_the_deadline_is_waited_for(service: Service, seconds: int) -> None:
    service.ask()
    service.away = range(1, 1 + seconds)
    service.now = 1.0
    assert seconds <= service.ask() <= seconds + LONGEST_PAUSE
    assert service.is_there()


def test_all_requests_together_wait_no_longer_than_the_deadline(service: Service) -> None:
    service.ask()
    service.away = range(10_000)
    assert sum(service.ask() for _ in range(20)) <= DEADLINE
    asked = service.asked
    assert service.ask() == 0
    assert service.asked == asked + 1  # it is sent all the same


@pytest.mark.parametrize("absent", [False, True])
def test_an_answer_of_any_kind_ends_an_outage(service: Service, *, absent: bool) -> None:
    service.ask()
    service.away = range(10_000)
    service.ask()
    service.away = range(0)
    assert service.ask(absent=absent) == 0
    service.away = range(10_000)
    assert service.ask() >= DEADLINE - LONGEST_PAUSE


def test_an_outage_that_was_seen_long_ago_may_be_over(service: Service) -> None:
    """A training goes on for an hour without the bucket: its end is worth waiting for again."""
    service.ask()
    service.away = range(10_000)
    service.ask()
    service.now += STALE_SECONDS - 1
    assert service.ask() < LONGEST_PAUSE
    service.now += STALE_SECONDS + 1
    assert service.ask() >= DEADLINE - LONGEST_PAUSE


def test_requests_that_each_take_longer_than_that_are_of_one_outage(service: Service) -> None:
    service.ask()
    service.away = range(10_000)

    def hangs(_: Any) -> None:
        service.now += STALE_SECONDS + 10
        raise ConnectionError

    began = service.now
    for _ in range(5):
        with pytest.raises(TransientError):
            service.retry("asking", hangs)
    assert service.now - began <= DEADLINE + 5 * (STALE_SECONDS + 10)


def test_one_that_has_never_answered_is_told_of_soon(service: Service) -> None:
    service.away = range(10_000)
    assert service.ask() + service.ask() + service.ask() <= FIRST_PATIENCE
