"""Every stage's task."""

from typing import Any

from prefect import Task

from tasks.assess import batch_norm, distance, diverge, evaluate, interpolate, select
from tasks.data import add_tokens, ingest, preprocess
from tasks.publish import register, report
from tasks.train import answer, base, fisher, prune, quantize, quote, revise, score, thin, train, uphold

TASKS: dict[str, Task[..., Any]] = {
    task.name: task
    for task in (
        add_tokens,
        ingest,
        preprocess,
        base,
        distance,
        prune,
        quantize,
        thin,
        answer,
        revise,
        score,
        quote,
        fisher,
        train,
        uphold,
        interpolate,
        batch_norm,
        evaluate,
        diverge,
        select,
        report,
        register,
    )
}
"""By the stage's name, in the order in which a run comes to them."""
