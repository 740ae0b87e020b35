"""Who goes on at a rung, against optuna's pruner, which halves asynchronously as well."""

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.search.halving import Rung, goes_on, looks_of, rungs
from ftlib.search.search import Halving
from ftlib.search.trial import Look, Outcome, Trial

LOSSES = st.lists(st.tuples(*[st.floats(0, 10)] * 4), min_size=1, max_size=12)


@given(LOSSES, st.integers(2, 4))
@settings(max_examples=60)
def test_trials_one_after_another_end_where_optunas_pruner_ends_them(
    curves: list[tuple[float, ...]], factor: int
) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor)
    study = optuna.create_study(pruner=pruner)
    before: dict[int, list[float]] = {}
    for curve in curves:
        trial = study.ask()
        for step, loss in enumerate(curve, start=1):
            trial.report(loss, step)
            theirs = not trial.should_prune()
            rung = next((i for i in range(4) if factor**i == step), None)
            ours = True
            if rung is not None:
                ours = goes_on(loss, before.setdefault(rung, []), factor)
                before[rung].append(loss)
            assert ours == theirs
            if not ours:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[-1])


def test_a_rung_is_the_first_measurement_from_its_share_on_but_for_the_end() -> None:
    asked = [Rung(share=share, before=()) for share in (0.25, 0.5, 0.75)]
    records = [
        {"step": 1, "epoch": 0.1, "loss": 9.0},
        {"step": 3, "epoch": 0.6, "validation_loss": 3.0},
        {"step": 6, "epoch": 1.2, "validation_loss": 2.0},
        {"step": 10, "epoch": 2.0, "validation_loss": 1.0},
    ]
    looks = looks_of(records, 2.0, asked)
    assert [(look.share, look.step, look.loss) for look in looks] == [(0.25, 3, 3.0), (0.5, 6, 2.0)]
    rewarded = looks_of([{"step": 5, "epoch": 1.0, "validation_reward": 4.0}], 2.0, asked)
    assert [look.loss for look in rewarded] == [-4.0, -4.0]


def test_a_rung_holds_what_earlier_trials_showed_there() -> None:
    looks = (Look(share=0.25, step=1, loss=2.0), Look(share=0.5, step=2, loss=1.0))
    trials = [
        Trial(number=i, points={}, values={}, outcome=Outcome(state="done", looks=looks[: i + 1])) for i in range(2)
    ]
    held = rungs(Halving(factor=2, first=0.25), trials)
    assert [(rung.share, rung.before) for rung in held] == [(0.25, (2.0, 2.0)), (0.5, (1.0,))]
    assert rungs(None, trials) == ()
