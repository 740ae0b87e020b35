"""Policies that learn from their own answers: what is learnt, how it is split, and how it goes on after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ftlib.data.formats.chat import Chat
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.errors import RecipeError, TrainingError
from ftlib.kinds import sampling
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.kinds.sampling import Sample
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.report.policies import policy_section
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import (
    tiny_causal_lm,
    tiny_chat_lm,
    tiny_chat_tokenizer,
    tiny_chats,
    tiny_classifier,
    tiny_lm_tokenizer,
    tiny_prepared,
    tiny_prepared_as,
    tiny_prompts,
)
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops import rollouts
from ftlib.training.loops.policy_loop import PolicyLoop
from ftlib.training.loops.rollouts import prompt_lengths, stand_ins
from ftlib.training.memory.prediction import Sized, _writing, predict
from ftlib.training.objectives.grpo import GRPO
from ftlib.training.objectives.policy import START
from ftlib.training.objectives.rloo import RLOO
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.rewards.length import Length
from ftlib.training.rewards.model import Model
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace

SHORT = Length(most=12)
MEASURED = ("reward", "length", "ended", "repeated", "no_signal", "entropy", "kl")


def make_job(root: Path, objective: Any = None, tuning: Any = None, epochs: int = 3, **compute: object) -> TrainJob:
    rows = tiny_prompts(20)
    data = tiny_prepared(
        root / "data", {"train": rows[:16], "validation": rows[16:]}, kind="completions", quoted="prompt"
    )
    model = find_model(ModelRef(path=str(tiny_causal_lm(root / "tiny"))))
    start = base(BaseJob(model=model, kind="completions", labels=(), seed=1), Workspace(root))
    phase = Phase(
        name="tune",
        dataset="d",
        objective=objective or RLOO(reward=SHORT, group_size=4, max_new_tokens=8, beta=0.0),
        tuning=tuning or Full(),
        optimizer=AdamW(learning_rate=1e-2, epochs=epochs, batch_size=8, schedule="constant"),
    )
    options = {"workers": 0, "threads": 1, "checkpoint_seconds": 1e-6, **compute}
    return TrainJob(
        start=start, data=data, phase=phase, precision="fp32", seed=3, compute=Compute.model_validate(options)
    )


def measured(folder: Path) -> list[dict[str, float]]:
    records = curves.read(folder / curves.FILE)
    return [{name: one[name] for name in ("step", *MEASURED)} for one in records if "reward" in one]


def test_a_policy_learns_what_is_worth_more_and_says_how(tmp_path: Path) -> None:
    done = train(make_job(tmp_path, epochs=10), Workspace(tmp_path / "whole"))
    series = measured(done.path)
    assert len(series) == 20
    assert float(done.facts["last_reward"]) > float(done.facts["first_reward"]) + 0.2
    assert series[0]["kl"] == 0.0  # it is its own start
    assert series[-1]["kl"] > 0.1
    assert done.facts["last_kl"] == pytest.approx((series[-1]["kl"] + series[-2]["kl"]) / 2)
    assert 0 < float(done.facts["best_validation_reward"]) <= 1
    assert all(0 <= one["no_signal"] <= 1 and 0 <= one["repeated"] < 1 for one in series)


@pytest.mark.slow
def test_a_reward_that_a_constant_answer_maximises_is_spoken_of(tmp_path: Path) -> None:
    """An answer of one character at most is worth 1 whatever was asked: the report says what became of the answers."""
    objective = RLOO(reward=Length(most=1), group_size=8, max_new_tokens=8, beta=0.0)
    done = train(make_job(tmp_path, objective, epochs=20), Workspace(tmp_path / "whole"))
    section = policy_section([done], tmp_path)
    assert section is not None
    assert float(done.facts["last_reward"]) > 0.9
    assert "of a step's answers repeat another one: it may be that one constant answer" in section.lead
    assert "Answers became shorter" in section.lead
    assert "are all worth the same, and teach nothing more" in section.lead


def test_what_the_curves_say_of_answers_is_counted() -> None:
    """Two prompts of three answers: one has a text twice, of the other all are worth the same; one text was cut."""
    texts = [(4, 5), (4, 5), (6,), (4, 5), (7, 8, 9, 9), (6,)]
    samples = [Sample(text, (0.0,) * len(text), ended=len(text) < 4) for text in texts]
    worth = np.array([1.0, 0.0, 0.5, 0.25, 0.25, 0.25])
    said = rollouts.Rollouts([np.array([1])] * 6, samples, worth, 3).measured()
    assert said == pytest.approx(
        {"reward": 2.25 / 6, "length": 12 / 6, "ended": 5 / 6, "repeated": 1 - 3 / 6, "no_signal": 1 / 2}
    )
    constant = [Sample((4, 5), (0.0, 0.0), ended=True)] * 6
    assert rollouts.Rollouts([np.array([1])] * 6, constant, worth, 3).measured()["repeated"] == 1 - 1 / 6


@pytest.mark.slow
def test_micro_batches_draw_and_learn_the_same(tmp_path: Path) -> None:
    grpo = GRPO(reward=SHORT, group_size=3, max_new_tokens=6, updates=2, beta=0.1)
    whole = train(make_job(tmp_path, grpo, Full(), 1), Workspace(tmp_path / "whole"))
    cut = train(make_job(tmp_path, grpo, Full(), 1, micro_batch_size=5), Workspace(tmp_path / "cut"))
    for one, other in zip(measured(whole.path), measured(cut.path), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("layout", ["texts", "chats"])
def test_prompts_alone_teach_what_the_prompts_of_answered_rows_teach(tmp_path: Path, layout: str) -> None:
    if layout == "texts":
        rows = [{**row, "completion": "ask the team"} for row in tiny_prompts(20)]  # one length: batches go by it
        tokenizer, quoted = tiny_lm_tokenizer(), "prompt"
        formats: list[Any] = [PromptCompletion(prompt="prompt", completion=one) for one in ("completion", None)]
    else:
        turns = tiny_chats(20)
        rows = [{"messages": row["messages"], "asked": str(row["messages"])} for row in turns]
        tokenizer, quoted = tiny_chat_tokenizer(), "asked"
        formats = [Chat(messages="messages", learn=learn) for learn in ("last", "nothing")]
    weights = list[object]()
    for number, format in enumerate(formats):
        splits: Any = {"train": rows[:16], "validation": rows[16:]}
        data = tiny_prepared_as(tmp_path / f"data{number}", format, splits, Processor.of(tokenizer), quoted=quoted)
        make = tiny_causal_lm if layout == "texts" else tiny_chat_lm
        model = find_model(ModelRef(path=str(make(tmp_path / f"tiny{number}"))))
        start = base(BaseJob(model=model, kind=format.yields, labels=(), seed=1), Workspace(tmp_path))
        job = make_job(tmp_path, epochs=1).model_copy(update={"data": data, "start": start})
        weights.append(train(job, Workspace(tmp_path / f"work{number}")).weights)
        assert data.splits["train"].supervised == 0 or number == 0
    assert weights[0] == weights[1]


class Scripted:
    """A sampler without a model: a row's seed says which of three texts it writes."""

    def __init__(self) -> None:
        self.asked = list[dict[str, Any]]()
        self.given = list[Sample]()

    def __call__(
        self,
        prompts: Sequence[torch.Tensor],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        ends: Collection[int],
    ) -> list[Sample]:
        asked = {"seeds": [*seeds], "most": max_new_tokens, "temperature": temperature, "ends": {*ends}}
        self.asked.append({"prompts": [prompt.tolist() for prompt in prompts], **asked})
        end = min(ends)
        texts = [[(7, end), (7, 8, 9, end), (9,) * max_new_tokens][seed % 3] for seed in seeds]
        self.given += [Sample(text, (0.0,) * len(text), ended=text[-1] == end) for text in texts]
        return self.given[-len(prompts) :]


def test_a_rollout_is_what_its_sampler_wrote_whoever_that_is(tmp_path: Path) -> None:
    job, draws = make_job(tmp_path), Scripted()
    split, model = open_split(split_file(job.data.path, "train"), ()), load(job.start, "completions")
    tokenizer, alone = tiny_lm_tokenizer(), Group(rank=0, world_size=1, device=torch.device("cpu"))
    objective = RLOO(reward=SHORT, group_size=2, max_new_tokens=8, temperature=0.7)
    writer = rollouts.Writer(
        objective, tokenizer, Collator.of(model), alone, {}, seed=3, precision="fp32", at_once=3, sampler=draws
    )
    found = writer.write(model, split, np.array([4, 1]), 2, 0)
    assert [len(one["seeds"]) for one in draws.asked] == [3, 1]
    assert len({seed for one in draws.asked for seed in one["seeds"]}) == 4
    assert {(one["most"], one["temperature"]) for one in draws.asked} == {(8, 0.7)}
    assert all(tokenizer.eos_token_id in one["ends"] for one in draws.asked)
    asked = [prompt for one in draws.asked for prompt in one["prompts"]]
    assert asked == [split.tokens(row)[: prompt_lengths(split)[row]].tolist() for row in (4, 4, 1, 1)]
    assert [*found.samples] == draws.given
    rows = found.rows()
    wrote = [[*prompt, *one.tokens] for prompt, one in zip(asked, draws.given, strict=True)]
    assert [rows.tokens(row).tolist() for row in range(4)] == wrote
    lengths = [len(tokenizer.decode([*one.answer], skip_special_tokens=True)) for one in draws.given]
    assert found.worth == pytest.approx([1.0 if length <= 12 else max(0.0, 2 - length / 12) for length in lengths])


def test_a_loop_learns_from_what_the_sampler_writes_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = Scripted()
    monkeypatch.setattr("ftlib.training.worker.PolicyLoop", partial(PolicyLoop, sampler=draws))
    monkeypatch.setattr(sampling, "sample", None)
    (first, second) = measured(train(make_job(tmp_path, epochs=1), Workspace(tmp_path / "work")).path)
    lengths = [len(one.tokens) for one in draws.given]
    assert [first["length"], second["length"]] == [np.mean(lengths[:32]), np.mean(lengths[32:64])]
    assert first["kl"] == 0.0
    assert second["kl"] != 0.0  # the first step has moved the model


class Killed(BaseException):
    """The machine is gone."""


def test_a_rollout_that_was_cut_off_is_drawn_again_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, micro_batch_size=8)
    whole = train(job, Workspace(tmp_path / "whole"))
    sample, calls = sampling.sample, list[int]()

    def dies(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 14:  # of a step's four micro-batches, one is drawn
            raise Killed
        return sample(*args, **more)

    monkeypatch.setattr(sampling, "sample", dies)
    cut = Workspace(tmp_path / "cut")
    with pytest.raises(Killed):
        train(job, cut)
    resumed = train(job, cut)
    assert 0 < int(resumed.facts["resumed_from_step"]) < 6
    assert resumed.weights == whole.weights
    assert measured(resumed.path) == measured(whole.path)


SCRIPT = """
import sys, time
from pathlib import Path
from ftlib.kinds import sampling
from ftlib.stages.train import TrainJob, train
from ftlib.workspace import Workspace
sample, calls = sampling.sample, []
def hangs(*args, **more):
    calls.append(1)
    if len(calls) == 14:
        Path(sys.argv[3]).touch()
        time.sleep(600)
    return sample(*args, **more)
sampling.sample = hangs
train(TrainJob.model_validate_json(Path(sys.argv[1]).read_text()), Workspace(sys.argv[2]))
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_rollout(tmp_path: Path) -> None:
    job = make_job(tmp_path, micro_batch_size=8)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    killed, sign = Workspace(tmp_path / "killed"), tmp_path / "hangs"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "job.json"), str(killed.root), str(sign)])
    until = time.monotonic() + 120
    while not sign.exists():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed, whole = train(job, killed), train(job, Workspace(tmp_path / "whole"))
    assert int(resumed.facts["resumed_from_step"]) > 0
    assert resumed.weights == whole.weights
    assert measured(resumed.path) == measured(whole.path)


@pytest.fixture(scope="module")
def ray_session() -> Any:
    from ftlib.on_ray.session import session

    with session(Compute(workers=2, threads=1)):
        yield


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_workers_draw_and_learn_what_one_does(tmp_path: Path, ray_session: None, sharding: str) -> None:
    objective = RLOO(reward=SHORT, group_size=3, max_new_tokens=8)
    alone = train(make_job(tmp_path, objective), Workspace(tmp_path / "alone"))
    both = train(
        make_job(tmp_path, objective, workers=2, sharding=sharding, micro_batch_size=5), Workspace(tmp_path / "both")
    )
    assert both.facts["world_size"] == 2
    for one, other in zip(measured(alone.path), measured(both.path), strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_a_reward_model_grades_what_is_written(tmp_path: Path) -> None:
    """It is loaded with a tokenizer of its own, and what the first step says it is worth is what it says itself."""
    folder = tiny_classifier(tmp_path / "judge", ("one", "two"), seed=5)
    judge = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, ignore_mismatched_sizes=True)
    torch.nn.init.normal_(judge.classifier.weight)
    judge.save_pretrained(folder)
    asked = RLOO(reward=Model(), group_size=2, max_new_tokens=4)
    job = make_job(tmp_path, asked, epochs=1)
    job = job.model_copy(update={"companions": {"reward": find_model(ModelRef(path=str(folder)))}})
    done = train(job, Workspace(tmp_path / "work"))
    rewards = [one["reward"] for one in measured(done.path)]
    assert len({*rewards}) == 2
    assert all(abs(one) < 20 for one in rewards)


def test_memory_counts_the_start_and_the_cache_of_what_is_written(tmp_path: Path) -> None:
    """As much as transformers' own cache holds behind the longest answers."""
    job = make_job(tmp_path)
    split = open_split(split_file(job.data.path, "train"), ())
    model = load(job.start, "completions")
    train_rows, validation = stand_ins(job.phase, [split], [split])
    assert validation == []
    assert len(train_rows[0]) == 8 * 4
    longest = int(prompt_lengths(split).max()) + 8
    assert int(train_rows[0].sizes.max()) == longest
    sized = Sized(model, job.phase, job.compute, "fp32", train_rows, validation, {START: model})
    assert sized.rows == 32
    cache = model(torch.zeros((32, longest), dtype=torch.long), use_cache=True).past_key_values
    whole = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert _writing(sized, model).activations == whole + whole // 2  # of two layers one is copied
    memory = predict(sized)
    assert memory.companions == memory.weights


def test_rewards_that_say_nothing_or_nonsense_end_the_run_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that was killed in its fourth step, and goes on."""
    same, calls = make_job(tmp_path, RLOO(reward=Length(most=1000), group_size=2, max_new_tokens=4)), list[int]()
    sample, work = sampling.sample, Workspace(tmp_path / "same")

    def dies(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # of two steps and validation in each epoch
            raise Killed
        return sample(*args, **more)

    monkeypatch.setattr(sampling, "sample", dies)
    with pytest.raises(Killed):
        train(same, work)
    with pytest.raises(TrainingError, match="in the first 6 steps all 2 answers to each prompt were worth the same"):
        train(same, work)
    long = RLOO(reward=SHORT, group_size=2, max_new_tokens=120)
    with pytest.raises(RecipeError, match=r"max_new_tokens: 120, but the longest prompt has \d+ tokens, and the model"):
        train(make_job(tmp_path, long), Workspace(tmp_path / "long"))
    with pytest.raises(ValueError, match="draw 2 or more"):
        RLOO(reward=SHORT, group_size=1)


def test_a_reward_reads_the_prompts_of_the_rows_and_the_answers_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = set[str]()
    grades = Length.grade

    def listens(self: Length, answered: Any, models: Any) -> list[float]:
        read.update(one.prompt for one in answered)
        return grades(self, answered, models)

    monkeypatch.setattr(Length, "grade", listens)
    train(
        make_job(tmp_path, RLOO(reward=SHORT, group_size=2, max_new_tokens=4), epochs=1), Workspace(tmp_path / "work")
    )
    assert read == {row["prompt"] for row in tiny_prompts(20)}


class Broken(Length):
    """A reward that gives what it is told to give."""

    gives: str

    def grade(self, answered: Any, models: Any) -> Any:
        del models
        return [{"nan": float("nan"), "none": None}[self.gives]] * len(answered)


@pytest.mark.parametrize(
    ("gives", "reason"), [("error", "raised KeyError"), ("none", "returned None"), ("nan", "returned nan")]
)
def test_a_reward_without_numbers_is_named(tmp_path: Path, gives: str, reason: str) -> None:
    job = make_job(tmp_path, epochs=1)
    objective = RLOO(reward=SHORT, group_size=2, max_new_tokens=2).model_copy(
        update={"reward": Broken(most=3, gives=gives)}
    )
    job = job.model_copy(update={"phase": job.phase.model_copy(update={"objective": objective})})
    with pytest.raises(RecipeError, match=f"reward length: it {reason}"):
        train(job, Workspace(tmp_path / "work"))
