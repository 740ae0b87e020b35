"""What libraries say goes to the run's log, whenever they are imported."""

import io
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from flows.command_line.quiet import _opened
from flows.one_line_errors import one_line_errors
from ftlib.errors import DataError

SCRIPT = """
import logging
from pathlib import Path
before = logging.getLogger("before")
before.addHandler(logging.StreamHandler())
from flows.command_line.quiet import log_to
log_to(Path("run.log"))
later = logging.getLogger("later")
later.addHandler(logging.StreamHandler())
later.propagate = False
before.warning("an old word")
later.warning("a new word")
"""


def test_loggers_made_before_and_after_write_to_the_file(tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    log = (tmp_path / "run.log").read_text()
    assert "an old word" in log
    assert log.count("a new word") == 1


@pytest.mark.filterwarnings("ignore:Logger 'prefect")  # the handler that sends to a server wants a flow run
@pytest.mark.parametrize("name", ["prefect.flow_runs", "prefect.task_runs", "prefect.engine"])
@pytest.mark.parametrize(
    ("error", "stack"), [(DataError("rows: 3 labels are missing; add them"), False), (KeyError("x"), True)]
)
def test_our_own_errors_are_a_line_in_a_run_s_log_and_a_bug_keeps_its_stack(name: str, error: Exception, stack: bool):
    one_line_errors()
    one_line_errors()
    logger, stream = logging.getLogger(name), io.StringIO()
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        try:
            raise error
        except Exception as raised:  # as Prefect's engines log it, in this order
            logger.exception("Encountered exception during execution: %r", raised)
            logger.error("Engine execution exited with unexpected exception", exc_info=True)
    finally:
        logger.removeHandler(handler)
    if stack:
        assert stream.getvalue().count("Traceback") == 2
    else:
        assert stream.getvalue() == f"Encountered exception during execution: {error}\n"


@pytest.mark.parametrize("place", ["/dev/full", "{folder}", "{folder}/file/run.log"])
def test_a_log_that_cannot_be_written_is_one_line(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("in the way")
    path = Path(place.format(folder=tmp_path))
    handler = _opened(path)
    for word in ("one", "another"):
        handler.handle(logging.makeLogRecord({"msg": word}))
    reasons = {"full": "No space left on device", "run.log": "Not a directory"}
    reason = reasons.get(path.name, "Is a directory")
    assert capsys.readouterr().err == f"reglage: {path}: {reason}; it goes on without this log\n"


def test_a_name_that_is_no_unicode_can_be_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    _opened(tmp_path / "run.log").handle(logging.makeLogRecord({"msg": "file \udcff"}))
    assert capsys.readouterr().err == ""
    assert (tmp_path / "run.log").read_text() == "file \\udcff\n"
