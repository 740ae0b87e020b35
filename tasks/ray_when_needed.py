"""Local Ray, started for the first training that needs it and kept until the last one that does."""

from contextlib import ExitStack
from types import TracebackType

from ftlib.training.compute import Compute


class RayWhenNeeded:
    """A context in which `start` begins a Ray session once; without a call to it Ray costs nothing.

    Starting takes seconds and so does ending, of which most is waiting: `start` and `stop` want to be called while
    a stage works on another thread.

    Ray takes SIGTERM for itself and must be started on the main thread, in the flow's body; the session gives the
    handler back, or a cancelled flow would live on.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._session = ExitStack()
        self._started = False

    def start(self) -> None:
        """Start Ray unless it runs already."""
        if self._started:
            return
        from ftlib.on_ray.session import session

        self._session.enter_context(session(self._compute))
        self._started = True

    def stop(self) -> None:
        """End Ray if it runs; it may be started again."""
        self._session.close()
        self._started = False

    def __enter__(self) -> "RayWhenNeeded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)
