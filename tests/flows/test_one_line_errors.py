"""What of Prefect's own words gets into a run's log."""

import logging
import sys

import pytest

from flows.one_line_errors import one_line_errors
from ftlib.errors import DataError


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Finished in state Completed()", False),
        ("Finished in state Cached(type=COMPLETED)", False),
        ("Finished in state Running()", False),  # while it is cancelled
        ("Finished in state Completed('router@3 in registry')", True),
        ("Finished in state Failed('DataError')", True),
        ("Beginning flow run 'tickets' for flow 'finetune'", True),
        ("✓ ingest home  2.9 s", True),
    ],
)
def test_a_stage_that_ended_well_has_one_line_which_is_ours(said: str, kept: bool) -> None:
    one_line_errors()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        record = logging.LogRecord(name, logging.INFO, "", 0, said, (), None)
        assert bool(logging.getLogger(name).filter(record)) is kept


def test_an_error_to_mend_keeps_its_line_and_no_stack() -> None:
    one_line_errors()
    try:
        raise DataError("home.jsonl: no rows")
    except DataError as error:
        said = f"Encountered exception during execution: {error!r}"
        record = logging.LogRecord("prefect.flow_runs", logging.ERROR, "", 0, said, (), sys.exc_info())
    assert logging.getLogger("prefect.flow_runs").filter(record)
    assert (record.getMessage(), record.exc_info) == (
        "Encountered exception during execution: home.jsonl: no rows",
        None,
    )
