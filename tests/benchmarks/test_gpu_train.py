"""The GPU benchmark's own arithmetic and settings; and, slowly, all of it on the processor."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks.gpu_contestants import StepClock
from benchmarks.gpu_settings import NAMES, OURS, SIZES, settings_of
from benchmarks.gpu_train import Budget, figures, main
from ftlib.training.compute import Compute


def steps(count: int, seconds: float) -> StepClock:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight])
    with StepClock(use_gpu=False) as clock:
        for _ in range(count):
            time.sleep(seconds)
            optimizer.step()
    optimizer.step()  # nobody listens any more
    return clock


def test_the_clock_hears_every_optimiser_and_leaves_the_first_step_out() -> None:
    clock = steps(4, 0.02)
    assert clock.steps == 4
    assert clock.seconds() == clock.ends[3] - clock.ends[0] >= 0.06
    with pytest.raises(RuntimeError, match="1 steps were done; nothing to measure"):
        steps(1, 0.0).seconds()


def outcome(rate: float, **fields: Any) -> dict[str, Any]:
    numbers = {"peak_gpu_bytes": 1e9, "seconds_before_step_2": 1.0, "seconds_after_last_step": 2.0}
    return {"tokens_per_second": rate, "losses": [2.0, 1.0], "grad_norms": [1.0, 0.5], **numbers, **fields}


def test_ratios_are_against_the_better_rival_and_lora_counts_four_flops() -> None:
    rates = {"reglage": 900.0, "reglage_compiled": 1200.0, "trainer": 400.0, "sft": 600.0, "sft_tuned": 1000.0}
    outcomes = {name: [outcome(rate, held_out_loss=1.0)] for name, rate in rates.items()}
    found = figures(outcomes, 10**9, SIZES["1b"], "NVIDIA H100 80GB HBM3")
    assert found["over_defaults"] == 2.0
    assert found["over_tuned"] == 1.2
    assert found["mfu"]["reglage"] == round(6 * 1e9 * 900 / 989e12, 4)
    lora = figures({"reglage": [outcome(9000.0)]}, 8 * 10**9, SIZES["8b-lora"], "NVIDIA H100")
    assert lora["mfu"]["reglage"] == round(4 * 8e9 * 9000 / 989e12, 4)
    assert lora["held_out_loss"] == {}
    assert "over_tuned" not in lora
    assert "mfu" not in figures({"reglage": [outcome(1.0)]}, 1, SIZES["1b"], "an unknown card")


def test_one_that_fails_does_not_end_the_others_and_none_is_begun_too_late() -> None:
    budget = Budget(0.2)

    def fail() -> dict[str, Any]:
        raise RuntimeError("Traceback\n  somewhere\ntorch.OutOfMemoryError: CUDA out of memory\n")

    assert budget.spend(fail) == {"failed": "torch.OutOfMemoryError: CUDA out of memory"}
    assert budget.spend(lambda: time.sleep(0.15) or {"fine": 1}) == {"fine": 1}  # type: ignore[func-returns-value]
    assert budget.spend(lambda: {"late": 1}) == {"failed": "not begun: there was no time left"}


@pytest.mark.parametrize("name", list(SIZES))
def test_every_setting_is_written_out_and_all_see_as_many_tokens_a_step(name: str) -> None:
    size = SIZES[name]
    for ours in OURS:
        compute = Compute.model_validate(settings_of(ours, size))
        assert compute.pack_tokens is not None
        assert compute.pack_tokens >= size.longest
    padded = settings_of("trainer", size)
    assert padded["per_device_train_batch_size"] * padded["gradient_accumulation_steps"] == size.batch_size
    packed = settings_of("sft_tuned", size)
    packs = packed["per_device_train_batch_size"] * packed["gradient_accumulation_steps"]
    assert packs == pytest.approx(0.4 * size.batch_size, rel=0.3)
    assert all(settings_of(one, size)["max_length"] == size.longest for one in NAMES if one.startswith("sft"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "tiny-lora"])
def test_all_of_it_runs_on_the_processor(name: str) -> None:
    rivals = ["trainer", "trainer_tuned", "sft", "sft_tuned"]
    only = [part for one in ("reglage", *rivals) for part in ("--only", one)]
    result = CliRunner().invoke(main, ["--model", name, "--cpu", "--seconds", "900", *only], catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads(result.output.splitlines()[-1])
    assert record["settings"]["failed"] == {}
    assert record["ratios"]["tokens_per_second"].keys() == {"reglage", *rivals}
    assert all(norms and min(norms) > 0 for norms in record["ratios"]["grad_norms"].values())
    ours, theirs = (record["ratios"]["losses"][one][0] for one in ("reglage", "trainer"))
    assert ours == pytest.approx(theirs, rel=0.02)
