"""One loop that repeats requests to a service, for every service: one deadline, one renewal of credentials.

The libraries below have loops of their own, each inside the other: s3fs sends 50 requests for one reset connection, and
gcsfs six for an endpoint where nobody is. They are told to try once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, TypeVar

from ftlib.errors import TransientError

T = TypeVar("T")

_sent, _newest = itertools.count(1), 0
"""Without a lock, which a fork could find held; of threads that count at once the newest may say one too few."""

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
FIRST_PATIENCE = 20.0  # seconds for a server that has never answered: a wrong endpoint is told soon
STALE_SECONDS = 60.0  # without a request: an outage that was seen before them may be over


def requests_sent() -> int:
    """Return how many requests this process has sent to services, those that failed too."""
    return _newest


def _count() -> None:
    global _newest
    _newest = next(_sent)


class Patient(ABC):
    """Repeats requests until they succeed, no retry can help, or `deadline` seconds have passed.

    The seconds are those of the outage, not of each request: once a service has given no answer to any of them for as
    long, every further one is sent once, until one is answered. So a run that needs many requests to end does end.

    All threads share one client. A process that was forked gets its own: two that read from one connection get each
    other's answers, and the thread that fsspec's loop runs on is not there any more.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._answered = False
        self._silence: tuple[float, float] | None = None
        """When the first and the last request failed since one was answered."""
        self._making = threading.Lock()
        self._client: Any = None
        self._process = os.getpid()
        self._of_the_parent: Any = None
        """Kept: what closes it would wait for a loop that does not run here."""

    @abstractmethod
    def connect(self) -> Any:
        """Return a new client, with the credentials read anew. Raises StorageError if there can be none."""

    @abstractmethod
    def meaning(self, error: Exception, what: str) -> Exception:
        """Say what a failed request means: absent, there already, worth a retry, or for a person to mend.

        FileNotFoundError, FileExistsError, EOFError for a range beyond the end, TransientError, StorageError; anything
        else is a bug and comes back as it is.
        """

    @abstractmethod
    def has_expired(self, error: Exception) -> bool:
        """Say whether the credentials were refused in a way that reading them anew can mend."""

    def try_once(self, what: str, request: Callable[[Any], object]) -> bool:
        """Send a request once, to tidy up; False if it failed, which must not hide why there is anything to tidy."""
        try:
            _count()
            request(self.connected())
        except Exception as error:
            if self.meaning(error, what) is error:
                raise
            return False
        return True

    def retry(self, what: str, request: Callable[[Any], T]) -> T:
        """Repeat a request until its answer is final or the deadline is over; `what` begins the error message."""
        began, pause, renewed = time.monotonic(), FIRST_PAUSE, False
        client = self.connected()
        while True:
            try:
                _count()
                result = request(client)
            except Exception as error:
                verdict = self.meaning(error, what)
                if verdict is error:
                    raise
                self._answered |= isinstance(verdict, (FileNotFoundError, FileExistsError, EOFError))
                silent = self._silent_since(began, isinstance(verdict, TransientError))
                if self.has_expired(error) and not renewed:
                    renewed, client = True, self.connected(expired=client)
                    continue
                patience = self.deadline if self._answered else min(FIRST_PATIENCE, self.deadline)
                if not isinstance(verdict, TransientError) or time.monotonic() + pause > silent + patience:
                    raise verdict from error
                time.sleep(pause * random.uniform(0.5, 1.0))  # many workers were turned away together
                pause, client = min(2 * pause, LONGEST_PAUSE), self.connected()  # another may have renewed it
            else:
                self._answered, self._silence = True, None
                return result

    def _silent_since(self, began: float, failed: bool) -> float:
        """Note how a request that began then has ended, and return since when no request was answered."""
        now, silence = time.monotonic(), self._silence
        if not failed:
            self._silence = None
            return began
        first = silence[0] if silence and began - silence[1] < STALE_SECONDS else now
        self._silence = (first, now)
        return min(first, began)

    def connected(self, expired: Any = None) -> Any:
        """Return the client; a new one, with the credentials read anew, if it still is the one that expired."""
        if self._process != os.getpid():
            # another thread of the parent may have held the lock as it forked; here there is one thread yet
            self._making, self._process = threading.Lock(), os.getpid()
            self._of_the_parent, self._client = self._client, None
        with self._making:
            if self._client is expired:
                self._client = self.connect()
            return self._client


def close_on(loop: asyncio.AbstractEventLoop, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close what fsspec's loop has opened, and wait a moment for it, as the process may end right behind."""
    if not loop.is_running():
        return
    closing = asyncio.run_coroutine_threadsafe(close(), loop)
    try:
        asyncio.get_running_loop()  # on the loop's own thread, which must not wait for itself
    except RuntimeError:
        wait([closing], timeout=1)
