"""Keep a run's log for people: errors that they can mend are one line, and Prefect's own word on each task is none."""

import logging
import re

from ftlib.errors import ReglageError

_CHATTER = re.compile(r"Finished in state (Completed\(\)|Cached\(.*\)|Running\(\))$")
"""Of a stage that ended well there is a line of ours, with what it did; a run says *Running* while it is cancelled."""


class _OneLine(logging.Filter):
    """Leaves out what nobody reads, and the stack of an error that is the user's to mend; a bug keeps it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.INFO and _CHATTER.match(record.getMessage()):
            return False
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ReglageError):
            message = record.getMessage()
            if repr(error) not in message:
                return False  # the engine, which says a second time that the run ended as it did
            record.msg = message.replace(repr(error), str(error))
            record.args, record.exc_info, record.exc_text = None, None, None
        return True


_ONE_LINE = _OneLine()


def one_line_errors() -> None:
    """Let a run's log, and the worker's console, be for people. Call it where a flow is defined."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_ONE_LINE)
