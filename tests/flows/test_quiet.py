"""What libraries say goes to the run's log, whenever they are imported."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import logging
from pathlib import Path
before = logging.getLogger("before")
before.addHandler(logging.StreamHandler())
from flows.quiet import log_to
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
