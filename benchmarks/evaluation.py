"""What the quickstart's evaluation takes: `python -m benchmarks.evaluation [--rows N] [--repetitions N]`.

The recipe runs once, on few rows and with short training, which no evaluation's time depends on. Then its evaluate jobs
are done again in fresh processes, in interleaved rounds: as they are; plainly, where each candidate is loaded, cut into
batches and asked by itself, one batch after the other on all cores; and so, with memory given back to the kernel behind
each pass, as it was before candidates shared anything. Tables must be the same: bytes are compared, and where they
differ the largest difference of a probability is told.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import can_record, fresh_process, interleaved, middle, print_result, print_table, spread
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.step import walk
from ftlib.workspace import Workspace

ROOT = Path(__file__).parents[1]
WAYS = ("as it was", "plain", "as it is")
TARGETS = {"evaluation_over_before": 0.5}


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path, exists=True), default=ROOT / "recipes" / "quickstart.yaml")
@click.option("--work", type=click.Path(path_type=Path), default=Path("benchmark-work"), show_default=True)
@click.option("--rows", type=int, default=175, show_default=True, help="Of each library; comments have fewer.")
@click.option("--repetitions", type=int, default=2, show_default=True)
@click.option("--threads", type=int, default=None, help="CPU threads; all cores if not given.")
@can_record
def main(recipe: Path, work: Path, rows: int, repetitions: int, threads: int | None) -> None:
    """Measure the quickstart's evaluation against evaluations of its candidates one by one."""
    jobs = evaluate_jobs(recipe, work.absolute(), rows)
    asked = {"jobs": [str(job) for job in jobs], "work": str(work.absolute()), "threads": threads or cores()}
    with tempfile.TemporaryDirectory() as tables:

        def measure(way: str, repetition: int) -> dict[str, Any]:
            task = asked | {"way": way, "tables": f"{tables}/{way}-{repetition}"}
            return fresh_process("benchmarks.evaluation", task, threads=threads or cores())

        outcomes = interleaved(WAYS, repetitions, measure)
        compared = [differing(Path(tables, f"{way}-0"), Path(tables, f"{WAYS[-1]}-0")) for way in WAYS[:-1]]
    told = {name: {way: middle(outcomes[way], name) for way in WAYS} for name in ("seconds", "cpu_seconds")}
    lines = [
        [way, f"{told['seconds'][way]:.1f}", spread(outcomes[way], "seconds"), f"{told['cpu_seconds'][way]:.1f}"]
        for way in WAYS
    ]
    print_table("The quickstart's evaluations", ["way", "s", "lowest to highest", "CPU s"], lines)
    over = {name: {way: by_way[WAYS[-1]] / by_way[way] for way in WAYS} for name, by_way in told.items()}
    ratios = {
        "evaluation_over_before": over["seconds"]["as it was"],
        "by_cpu_time": over["cpu_seconds"]["as it was"],
        "evaluation_over_plain": over["seconds"]["plain"],
        "over_plain_by_cpu_time": over["cpu_seconds"]["plain"],
        "same_bytes": all(same for same, _ in compared),
        "largest_difference": max(largest for _, largest in compared),
        **told,
    }
    print_result("evaluation", ratios, {"rows": rows, "targets": TARGETS, **describe_machine()})


def evaluate_jobs(recipe: Path, work: Path, rows: int) -> list[Path]:
    """Run the recipe up to its page, and return the files of its evaluate jobs, in order."""
    from flows.run.steps import inputs, steps
    from ftlib.recipe.file import load_recipe
    from ftlib.stages.register import register
    from ftlib.stages.report import report

    few = [f"datasets.docstrings.source.rows_per_library={rows}"]
    few += [f"datasets.comments.source.rows_per_library={max(1, rows * 3 // 7)}"]
    r = load_recipe(recipe, [*few, "phases.tune.optimizer.epochs=0.2", "compute={workers: 0}"])
    place, jobs = Workspace(work / "run"), list[Path]()
    (work / "jobs").mkdir(parents=True, exist_ok=True)

    def answer(step: Any) -> object:
        if isinstance(step.job, EvaluateJob):
            jobs.append(work / "jobs" / f"{len(jobs)}.json")
            jobs[-1].write_text(step.job.model_dump_json())
        return None if step.job is None or step.stage in (report, register) else step.stage(step.job, place)

    walk(steps(r, place, inputs(r, place)), answer)
    return jobs


def differing(one: Path, other: Path) -> tuple[bool, float]:
    """Say whether two folders have the same tables, to the byte; and how far their probabilities are apart at most."""
    import numpy as np
    import pyarrow.parquet as pq

    files = sorted(path.relative_to(one) for path in one.rglob("*.parquet"))
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.parquet"))
    assert files
    same = all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    pairs = [[np.array(pq.read_table(at / file)["nll"]) for at in (one, other)] for file in files]
    return same, max(float(np.abs(first - second).max()) for first, second in pairs)


def measured(task: dict[str, Any]) -> dict[str, Any]:
    """Do the jobs in one way, and return what that took behind the imports."""
    import torch  # before the clock starts, as in the process of a run
    import transformers

    from ftlib.evaluation import forward_pass, lanes, predictor

    del transformers
    place = Workspace(task["tables"])
    jobs = [EvaluateJob.model_validate_json(Path(file).read_text()) for file in task["jobs"]]
    torch.set_num_threads(task["threads"])
    began, cpu = time.monotonic(), time.process_time()
    if task["way"] != "as it is":
        with ExitStack() as patches:
            for module in (predictor, lanes):
                patches.enter_context(patch.object(module, "MOST", 1))
            if task["way"] == "as it was":
                patches.enter_context(patch.object(forward_pass, "kept_memory", nullcontext))
            for job in jobs:
                compute = job.compute.model_copy(update={"evaluation_memory_mb": 0})
                for candidate in job.candidates:
                    evaluate(job.model_copy(update={"candidates": (candidate,), "compute": compute}), place)
    else:
        for job in jobs:
            evaluate(job, place)
    return {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu}


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith(".json"):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        Path(sys.argv[2]).write_text(json.dumps(measured(json.loads(Path(sys.argv[1]).read_text()))))
    else:
        main()
