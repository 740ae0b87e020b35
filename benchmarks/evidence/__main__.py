"""Run what is missing of the evidence, and write its page: `python -m benchmarks.evidence [ROW...] [--seeds 0 1 2]`.

A row's rows and models are made by its own commands before. Killed, it goes on: a result that is there is not made
again, and neither is a stage that a run had finished.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.evidence.curve import draw
from benchmarks.evidence.needs import make
from benchmarks.evidence.page import PAGE, page
from benchmarks.evidence.row import read_rows
from benchmarks.evidence.trial import RESULTS, MachineFailed, commit_of_code, read_trials, run_trial
from flows.prefect_server import TemporaryServer, user_has_server
from ftlib.workspace import write_durably


def main() -> None:
    """Run the rows and seeds that have no result yet, keep each result at once, and write the page of all."""
    rows = read_rows()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"by default all: {', '.join(rows)}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("benchmark-work/evidence"))
    parser.add_argument("--larger", action="store_true", help="with each row's larger settings; kept beside the others")
    parser.add_argument("--threads", type=int, help="train in the run's process, with so many")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page")
    parser.add_argument("--dirty", action="store_true", help="also where the code is no commit's; the results say so")
    args = parser.parse_args()
    if unknown := sorted({*args.rows} - {*rows}):
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(rows)}")
    if commit_of_code().endswith("-dirty") and not args.dirty and not args.page:
        parser.error("files differ from their commit, so nobody could find what ran; commit them, or give --dirty")
    work = args.work.absolute()
    if not args.page and not user_has_server():  # one for all runs, which would each start their own
        server = TemporaryServer(work / "prefect-server.log")
        server.use()
        server.wait()
    for seed in () if args.page else args.seeds:
        for name in args.rows or rows:
            row = rows[name]
            if any(trial.seed == seed and trial.larger == args.larger for trial in read_trials(row)):
                continue
            print(f"{name}, seed {seed}", flush=True)
            if lacking := make(row.needs):
                print(f"  not run: {lacking}", flush=True)  # which says nothing about the technique
                continue
            try:
                trial = run_trial(row, seed, work, larger=args.larger, threads=args.threads)
            except MachineFailed as failed:
                print(f"  not run: {failed}; run it again", flush=True)
                continue
            trial.file().parent.mkdir(parents=True, exist_ok=True)
            write_durably(trial.file(RESULTS), (trial.model_dump_json(indent=1) + "\n").encode())
            print(f"  {trial.failed or trial.arms}, {trial.seconds:g} s", flush=True)
    trials = {name: read_trials(row) for name, row in rows.items()}
    for name, row in rows.items():
        draw(row, trials[name])
    PAGE.write_text(page(rows, trials), encoding="utf-8")


if __name__ == "__main__":
    main()
