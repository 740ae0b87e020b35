"""Random kills of tiny jobs, and what is left of them: `python -m benchmarks.reliability --kills 100`.

Each kill: the job's folder as it was before, its command, at a moment drawn from how long it takes undisturbed SIGKILL
of the whole tree, SIGKILL of the main process alone, or SIGTERM; then the same command again, to its end. What there
is then (`reliability_facts.py`) is compared with what an undisturbed run makes. One JSON line a kill is appended to
`benchmarks/baselines/reliability.jsonl`; started again, it goes on to the number asked for. The folder of a kill that
broke something is kept. `--page` writes the table in docs/reliability.md of what is recorded.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.reliability_arena import Arena, Undisturbed
from benchmarks.reliability_jobs import possible
from benchmarks.reliability_page import BASELINE, HOWS, PAGE, Kill, page, read

LONGEST_STAY = 15.0
"""Seconds that a process may outlive its run's main process."""


@click.command(help=__doc__)
@click.option("--kills", type=click.IntRange(min=0), default=100, show_default=True, help="Records there shall be.")
@click.option("--only", default="", metavar="JOB,...", help="Of these jobs; the number then counts theirs alone.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), default=BASELINE, show_default=True)
@click.option("--evidence", type=click.Path(path_type=Path), default=Path("benchmark-work/reliability"))
@click.option("--page", "only_page", is_flag=True, help="Kill nothing; write the table in docs/reliability.md.")
def main(kills: int, only: str, seed: int, results: Path, evidence: Path, only_page: bool) -> None:
    """Kill until there are enough records."""
    if only_page:
        return PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read(results)), encoding="utf-8") and None
    jobs = possible()
    asked = [word for word in only.split(",") if word] or list(jobs)
    if unknown := [name for name in asked if name not in jobs]:
        raise click.BadParameter(f"no job {', '.join(unknown)}; there are {', '.join(jobs)}", param_hint="--only")
    before = read(results)
    missing = kills - sum(kill.job in asked for kill in before)
    if missing <= 0:
        return click.echo(f"{results}: {len(before)} kills are recorded; nothing to do")
    with tempfile.TemporaryDirectory(prefix="reglage-kills-") as folder:
        broken = _kill_all(Path(folder), asked, missing, random.Random(f"{seed}/{len(before)}"), results, evidence)
    click.echo(f"{missing} kills, {broken} broke something; `--page` writes the table")
    raise SystemExit(bool(broken))


def _kill_all(
    folder: Path, asked: Sequence[str], missing: int, chance: random.Random, results: Path, evidence: Path
) -> int:
    """Kill as often as is missing; return how many kills broke something."""
    jobs = possible()
    shares = [jobs[name].share for name in asked]
    broken = 0
    with Arena.opened(folder) as arena:
        undisturbed: dict[str, Undisturbed] = {}
        while missing:
            name = chance.choices(asked, shares)[0]
            how, share = chance.choice([*HOWS]), chance.random()
            if name not in undisturbed:
                undisturbed[name] = arena.prepare(name, jobs[name])
            kill = killed(arena, name, undisturbed[name], how, share)
            if kill is None:  # it was over before: a moment of another run's
                continue
            if kill.broken:
                broken += 1
                kept = evidence / f"{name}-{kill.at.replace(':', '')}"
                shutil.copytree(arena.folder / name, kept, symlinks=True, ignore=shutil.ignore_patterns("base"))
                kill = kill.kept(str(kept))
            results.parent.mkdir(parents=True, exist_ok=True)
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(kill.record()) + "\n")
            missing -= 1
            click.echo(f"{missing} to go: {kill}")
    return broken


def killed(arena: Arena, name: str, undisturbed: Undisturbed, how: str, share: float) -> Kill | None:
    """Kill a job once, run it again, and compare; None where it was over before its moment came."""
    arena.reset(name)
    began = time.monotonic()
    process = arena.start(name, "killed")
    begun = arena.in_window(name, process)
    if begun and (use := arena.jobs[name].lasting):
        use(arena.folder / name)
    if not begun or process.ends_within(share * undisturbed.window_seconds):
        process.wait()
        return None
    after, during = time.monotonic() - began, arena.stage(name)
    process.kill(how)
    code = process.wait()
    left, stay = process.left(LONGEST_STAY)
    broken = [f"left: {line}" for line in left]
    again = arena.again(name)
    if again.code:
        broken.append(f"the command again ended with {again.code}")
    broken += arena.differing(name, undisturbed)
    return Kill(
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        job=name,
        how=how,
        share=round(share, 3),
        after_seconds=round(after, 2),
        during=during,
        ended=code,
        stay_seconds=round(stay, 1),
        again_seconds=round(again.seconds, 1),
        broken=tuple(broken),
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
