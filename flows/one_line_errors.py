"""Write errors that the user can mend as one line in a run's log, without a stack."""

import logging

from ftlib.errors import ReglageError


class _OneLine(logging.Filter):
    """Leaves the stack out of what Prefect logs of an error that is the user's to mend; a bug keeps it."""

    def filter(self, record: logging.LogRecord) -> bool:
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
    """Let our own errors be a line in a run's log and on the worker's console. Call it where a flow is defined."""
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_ONE_LINE)
