"""What a run leaves of its Ray is ended, also where the run itself was killed."""

import subprocess
import sys
import time
from pathlib import Path

from ftlib.on_ray.guard import guarded

SLEEP = "import time; time.sleep(60)"


def sleeper(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SLEEP, *arguments])


def test_what_names_the_folder_ends_with_the_block_and_nothing_else_does(tmp_path: Path):
    other = sleeper(f"--temp-dir={tmp_path / 'another'}/r")
    try:
        with guarded(str(tmp_path / "one")):
            left = sleeper(f"--temp-dir={tmp_path / 'one'}/r")
            assert left.poll() is None
        assert left.wait(timeout=5) == -9
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_what_has_taken_a_title_is_known_by_its_open_log(tmp_path: Path):
    """As Ray's agents do: their title overwrites what they were started with."""
    (tmp_path / "one").mkdir()
    mine = (tmp_path / "one" / "driver.log").open("w")  # the run's own process is spared
    with mine, guarded(str(tmp_path / "one")), (tmp_path / "one" / "agent.log").open("w") as log:
        left = subprocess.Popen([sys.executable, "-c", SLEEP], stdout=log)
    assert left.wait(timeout=5) == -9


def test_it_ends_too_where_the_process_was_killed(tmp_path: Path):
    code = (
        "import subprocess, sys\n"
        "from ftlib.on_ray.guard import guarded\n"
        "with guarded(sys.argv[1]):\n"
        "    command = [sys.executable, '-c', sys.argv[2], sys.argv[1] + '/r']\n"
        "    left = subprocess.Popen(command, stdout=subprocess.DEVNULL)\n"
        "    print(left.pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), SLEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    status = Path(f"/proc/{int(run.stdout.readline())}/status")
    assert status.exists()
    run.kill()
    run.communicate()
    deadline = time.monotonic() + 5
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline, "it outlived the run"
        time.sleep(0.05)
