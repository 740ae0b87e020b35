"""A night in small: `python -m benchmarks.night`.

In a new folder, as users do: `reglage up`, `reglage deploy` with an event, a watch and a monitor each minute. Files
arrive, the event starts a retraining, which trains and waits; a person approves in chromium; `reglage serve` answers
and logs; what is asked drifts, monitor says so, it is retrained; answers become worse, monitor rolls back, once; what
is nothing new is skipped. Nothing but files, questions and approvals comes from here: each step waits for what starts
by itself and examines registry, runs, events and log. Prints a line a step with its seconds, writes the table in
docs/reliability.md, and ends with nothing left running.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.deployed import waited
from benchmarks.machine import describe_machine
from benchmarks.night_stage import EVERY_MINUTE, NAME, Night, Step
from benchmarks.reliability_page import PAGE, ROOT, between
from benchmarks.rounds import print_result
from ftlib.testing import LABELS, tiny_rows
from ftlib.wording import counted
from infra.chromium import chromium

BASELINE = ROOT / "benchmarks" / "baselines" / "night.json"
BEGIN, END = "<!-- night: made by `python -m benchmarks.night` -->", "<!-- end of night -->"
ROWS, FEW, ASKED = 800, 40, 300
WIDTH = 118


def it_comes_up(night: Night) -> str:
    """`reglage up --detach` in a new folder."""
    night.come_up()
    services = json.loads(night.up.command("status", "--json"))["services"]
    running = [name for name in ("server", "worker") if services[name]["runs"]]
    assert running == ["server", "worker"], services
    return f"{' and '.join(running)} run"


def it_is_deployed(night: Night) -> str:
    """`reglage deploy` with event, watch and monitor."""
    words = ("recipes/night.yaml", "--event", "--watch", EVERY_MINUTE[0], "--monitor", *EVERY_MINUTE, "--json")
    made = json.loads(night.up.command("deploy", *words))
    names = [made["name"], *(one["name"] for one in made["beside"])]
    assert names == [f"{flow}/{NAME}" for flow in ("retrain", "watch", "monitor")], names
    assert made["deployed"]["event"], made
    return ", ".join(names)


def files_arrive(night: Night) -> str:
    """Files arrive: watch tells it, retrain starts, trains and waits."""
    night.does(lambda: night.arrive("monday", tiny_rows(ROWS)))
    night.wait_run("watch", "Changed")
    run = night.wait_retraining("Suspended")
    assert (night.versions(), night.meant()) == ([1], []), (night.versions(), night.meant())
    assert len(night.new_runs("retrain")) == 1
    return f"{run['name']} is {run['state_name']}; version 1 is published, the alias means none"


def a_person_approves(night: Night) -> str:
    """A person approves in chromium."""
    from infra.screenshots import Photographer, approved, wait_for_state

    waiting = night.wait_retraining("Suspended")
    run = wait_for_state(_of_prefect(waiting["id"]), "PAUSED")
    with chromium(night.home / "chromium") as page:
        approved(Photographer(page, f"{night.up.url}/v2", night.home, night.home), run)
    night.wait_retraining("Promoted")
    (entry,) = night.history()
    assert (entry.version, entry.who) == (1, "Ann"), entry
    return f"Promoted: the alias means version 1, by {entry.who}"


def it_is_served(night: Night) -> str:
    """`reglage serve night@champion` answers over HTTP and logs."""
    night.serve()
    _, _, versions = night.ask(ASKED)
    assert versions == {1}, versions
    assert night.logged(1) == ASKED
    return f"{ASKED} answers by version 1, all in the log"


def answers_are_quiet(night: Night) -> str:
    """A look of monitor."""
    night.news()
    return f"Quiet: {_reason(night.wait_run('monitor', 'Quiet'))}"


def few_rows_arrive(night: Night) -> str:
    """Few rows arrive."""
    night.does(lambda: night.arrive("tuesday", tiny_rows(FEW, seed=2)))
    run = night.wait_retraining("Skipped")
    assert "wait for more" in _reason(run), _reason(run)
    return f"retrain, by the event: Skipped: {_reason(run)}"


def inputs_drift(night: Night) -> str:
    """What is asked drifts."""
    night.does(lambda: night.ask(2 * ASKED, words=40))
    run = night.wait_run("monitor", "Drifted")
    waited("its event", lambda: night.events("reglage.drift"))  # the server writes events down some seconds later
    assert len(night.events("reglage.drift")) == 1
    return f"monitor: Drifted: {_reason(run)}; one event reglage.drift"


def it_is_trained_again(night: Night) -> str:
    """The event starts retrain, which trains and waits; a person says yes."""
    run = night.wait_retraining("Suspended")
    answer = {"decision": "promote", "who": "Bea", "why": "it has seen more"}

    def taken() -> bool:  # the state is there some moments before the form that belongs to it
        said = night.up.api.post(f"/flow_runs/{run['id']}/resume", json={"run_input": answer}).raise_for_status()
        return said.json()["status"] == "ACCEPT"

    waited("her answer to be taken", taken)
    promoted = night.wait_retraining("Promoted")
    assert promoted["id"] == run["id"]
    assert (night.versions(), night.meant()) == ([1, 2], [1, 2])
    why = json.loads((night.home / "work" / "runs" / NAME / "retrain.json").read_text())["worth"]["reasons"]
    assert any("live drift" in reason for reason in why), why
    seconds = night.wait_served(2)
    assert night.ask(ASKED)[2] == {2}
    return f"Promoted: version 2 by Bea; serve answers by it {seconds:.0f} s later"


def nothing_new_arrives(night: Night) -> str:
    """The same rows arrive again, in a file of another name."""
    night.does(lambda: night.arrive("again", tiny_rows(ROWS)))
    run = night.wait_retraining("Skipped")
    assert night.versions() == [1, 2]
    return f"retrain, by the event: Skipped: {_reason(run)}"


def answers_become_worse(night: Night) -> str:
    """Late labels say that the answers are wrong."""

    def tell() -> None:
        requests, said, _ = night.ask(ASKED)
        night.say(requests, [LABELS[(LABELS.index(label) + 1) % len(LABELS)] for label in said])

    night.does(tell)
    run = night.wait_run("monitor", "Rolled back")
    last = night.history()[-1]
    assert (night.meant(), last.rolled_back) == ([1, 2, 1], "rule"), night.history()
    assert "monitor's rule" in last.why, last.why
    waited("its event", lambda: night.events("reglage.quality"))
    assert len(night.events("reglage.quality")) == 1
    seconds = night.wait_served(1)
    return f"monitor: {run['state_name']}, as the alias's history says; serve is at version 1 {seconds:.0f} s later"


def nothing_follows(night: Night) -> str:
    """The event starts retrain; monitor looks again."""
    run = night.wait_retraining("Skipped")
    night.news()
    looks = waited("a look", lambda: [one for one in night.new_runs("monitor") if one["state_type"] == "COMPLETED"])
    assert (night.meant(), night.versions()) == ([1, 2, 1], [1, 2]), night.history()
    return f"Skipped: {_reason(run)}; the next look ({looks[0]['state_name']}) moves nothing"


STEPS: tuple[Step, ...] = (
    it_comes_up,
    it_is_deployed,
    files_arrive,
    a_person_approves,
    it_is_served,
    answers_are_quiet,
    few_rows_arrive,
    inputs_drift,
    it_is_trained_again,
    nothing_new_arrives,
    answers_become_worse,
    nothing_follows,
)


def _reason(run: dict[str, Any]) -> str:
    return str(run["state"]["message"]).partition(": ")[2]


def _of_prefect(run: str) -> Any:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        return client.read_flow_run(run)  # pyright: ignore[reportArgumentType]


def play(night: Night) -> list[list[str]]:
    """Go through what is left of the night; return a row a step: what, what was seen, seconds."""
    night.go_on()
    for step in STEPS[len(night.rows) :]:
        began = time.monotonic()
        seen = step(night)
        what = str(step.__doc__).rstrip(".")
        seconds = f"{time.monotonic() - began:.0f}"
        print(*wrapped(what, seen, seconds), sep="\n", flush=True)
        night.remember([what, seen, seconds])
    return night.rows


def ended(night: Night) -> list[str]:
    """Stop all of it; return the row of the table. Raises AssertionError if something is left."""
    began = time.monotonic()
    left = night.close()
    assert not left, left
    row = ["SIGTERM to serve, `reglage down`", "no process is left", f"{time.monotonic() - began:.0f}"]
    print(*wrapped(*row), sep="\n", flush=True)
    return row


def page(text: str, record: dict[str, Any]) -> str:
    """Return docs/reliability.md with the night's table made anew."""
    machine = f"{record['cores']} cores at load {record['load'][0]:g} to {record['load'][1]:g}"
    lines = [line for what, seen, seconds in record["steps"] for line in wrapped(what, seen, seconds)]
    block = "\n".join(["```text", *lines, "```"])
    broken = record["times"] - 1
    broken_off = (
        f"; it was broken off {counted(broken, 'time')} and went on, from where a step's seconds count"
        if broken
        else ""
    )
    said = f"On {record['at'][:10]}, on {machine}, with a tiny model, in {record['minutes']:g} minutes{broken_off}."
    return between(text, BEGIN, END, f"{textwrap.fill(said, WIDTH)}\n\n{block}")


def wrapped(what: str, seen: str, seconds: str) -> list[str]:
    """Return a step as it is printed, in lines that fit a page: the seconds, what happens, what was seen."""
    later = " " * 9
    return textwrap.wrap(f"{seconds:>5} s  {what}: {seen}", WIDTH, subsequent_indent=later, break_long_words=False)


def main() -> None:
    """Play the night, examine it, write the record and its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where it happens; kept, so that one that was broken off goes on")
    parser.add_argument("--page", action="store_true", help="only write the table of what is recorded")
    args = parser.parse_args()
    if not args.page:
        _record(args.folder)
    record = json.loads(BASELINE.read_text(encoding="utf-8"))
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


def _record(folder: Path | None) -> None:
    """Play the night, and record it if all of it held."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="reglage-night-") as made:
        home = (folder or Path(made)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        night = Night(home)
        try:
            steps = play(night)
        except BaseException:
            night.close()
            raise
        steps.append(ended(night))
        (home / "night.json").unlink()
    record = {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": describe_machine()["cores"],
        "load": [min(night.loads), max(night.loads)],
        "minutes": round(sum(int(seconds) for _, _, seconds in steps) / 60),
        "times": night.times,
        "steps": steps,
    }
    BASELINE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print_result("night", {"seconds": {what: seconds for what, _, seconds in steps}}, describe_machine())


if __name__ == "__main__":
    main()
