"""Loss and gradients of one step against TRL's own code: equal to 1e-6 at every weight, which is float32's rounding.

Where definitions differ the formula decides, in `test_preference_objectives.py`: of ORPO's two terms TRL takes the
cross-entropy over prompt and answer, the paper and we over the answer, so its other term alone is compared. TRL adds
margins of reward models as they are, which is a `margin_scale` of 1. Gradients are compared without a relative
tolerance: the largest are from 0.0007 to 1.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import trl
from torch import Tensor, nn
from torch.nn.functional import log_softmax, pad
from torch.testing import assert_close

from ftlib.data.formats.compared_texts import ComparedTexts
from ftlib.data.prepared import add_scores, split_file
from ftlib.data.processor import Processor
from ftlib.evaluation.row_scores import score_rows
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load, load_model, load_tokenizer
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.testing import (
    tiny_chat_lm,
    tiny_classifier,
    tiny_comparisons,
    tiny_preferences,
    tiny_prepared,
    tiny_prepared_as,
    tiny_thumbs,
    tiny_tokenizer,
)
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.objectives.dpo import DPO
from ftlib.training.objectives.grpo import GRPO
from ftlib.training.objectives.kto import KTO
from ftlib.training.objectives.orpo import ORPO
from ftlib.training.objectives.policy import START, PolicyObjective
from ftlib.training.objectives.reward import BradleyTerry
from ftlib.training.objectives.rloo import RLOO
from ftlib.training.objectives.simpo import SimPO
from ftlib.training.rewards.length import Length
from ftlib.workspace import Workspace
from tests.ftlib.training.test_policy_gradient import PROMPT, answers, bandit

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))
ANYWHERE = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
"""What TRL asks of accelerate, on one process."""


def moved(model: nn.Module, by: float = 0.03) -> None:
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=draw).to(parameter.dtype)


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", **more}


def marked(batch: Batch) -> dict[str, Tensor]:
    """Return a batch's sequences with a mask of their answers, as wide as they are."""
    assert batch.targets is not None
    marks = pad(batch.targets, (0, batch.inputs["input_ids"].shape[1] - batch.targets.shape[1])) != 0
    inputs = {name: of for name, of in batch.inputs.items() if name != "token_type_ids"}
    return {**inputs, "completion_mask": marks.long()}


def chosen_first(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([of[::2], of[1::2]]) for name, of in inputs.items()}


def step(objective: Any, model: nn.Module, split: PreparedSplit, **companions: nn.Module) -> Tensor:
    """Return the loss of one step over all rows, in pieces of two, and leave its gradient in the model."""
    asking = Asking(objective, model, Collator.of(model), ALONE, companions=companions, micro_batch_size=2)
    pieces, count = asking.pieces(split, np.arange(len(split)))
    total = torch.zeros(())
    for piece in pieces:
        loss = asking.loss(split, piece).total / count
        loss.backward()
        total += loss.detach()
    return total


def alike(ours: Tensor, model: nn.Module, theirs: Tensor, twin: nn.Module) -> None:
    """Hold losses together to 1e-6, and every parameter's gradient."""
    theirs.backward()
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-6, abs=1e-6)
    found, expected = gradients(model), gradients(twin)
    assert found.keys() == expected.keys()
    assert max(float(one.abs().max()) for one in found.values()) > 5e-4
    for name, gradient in found.items():
        assert_close(gradient, expected[name], rtol=0.0, atol=1e-6, msg=lambda said, of=name: f"{of}: {said}")


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def scored(folder: Path, kind: Any, rows: list[Any], reference: nn.Module) -> PreparedSplit:
    path = split_file(tiny_prepared(folder, {"train": rows}, kind=kind).path, "train")
    numbers = score_rows(reference, open_split(path, ()), "fp32", lambda _: None)
    add_scores(path, path.with_name("scored.arrow"), "reference", numbers)
    return open_split(path.with_name("scored.arrow"), ())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DPO(), {"loss_type": "sigmoid", "beta": 0.1}),
        (DPO(beta=0.3, loss_type="ipo"), {"loss_type": "ipo", "beta": 0.3}),
        (
            DPO(loss_type="robust", label_smoothing=0.2),
            {"loss_type": "robust", "beta": 0.1, "label_smoothing": 0.2},
        ),
    ],
    ids=["sigmoid", "ipo", "robust"],
)
def test_a_step_of_dpo_is_trl_s(ours: DPO, theirs: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_chat_lm(tmp_path / "model")
    model, reference = load_model(folder, "preferences"), load_model(folder, "preferences")
    moved(model)
    split = scored(tmp_path / "rows", "preferences", tiny_preferences(6), reference)
    twin = copy.deepcopy(model)
    trainer = trl.DPOTrainer(
        twin,
        ref_model=reference,
        args=trl.DPOConfig(**options(tmp_path / "trl", **theirs)),
        train_dataset=datasets.Dataset.from_list(tiny_preferences(6)),
        processing_class=load_tokenizer(folder),
    )
    inputs = chosen_first(marked(split.batch(np.arange(6), Collator.of(model))))
    alike(step(ours, model, split), model, trainer.compute_loss(trainer.model, inputs), trainer.model)


@pytest.mark.parametrize("away", [True, False], ids=["z0 above 0", "z0 cut at 0"])
def test_a_step_of_kto_is_trl_s(away: bool, tmp_path: Path) -> None:
    """On one process, whose batch is the global one: there TRL's z0 is ours."""
    folder = tiny_chat_lm(tmp_path / "model")
    model, reference = load_model(folder, "judged"), load_model(folder, "judged")
    moved(reference if away else model)  # noise makes answers less likely
    split = scored(tmp_path / "rows", "judged", tiny_thumbs(6), reference)
    twin = copy.deepcopy(model)
    rows = [{"prompt": row["prompt"], "completion": row["answer"], "label": row["label"]} for row in tiny_thumbs(6)]
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5, "beta": 0.2}
    trainer = trl.KTOTrainer(
        twin,
        ref_model=reference,
        args=trl.KTOConfig(**options(tmp_path / "trl", per_device_train_batch_size=6, **weights)),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=load_tokenizer(folder),
    )
    batch = split.batch(np.arange(6), Collator.of(model))
    assert batch.targets is not None
    both = marked(batch)
    inputs = {
        **{name: of[::2] for name, of in both.items()},
        **{f"KL_{name}": of[1::2] for name, of in both.items()},
        "label": batch.targets[::2].amax(1) > 0,
    }
    theirs = trainer.compute_loss(trainer.model, inputs)
    assert (trainer._metrics["eval" if not trainer.model.training else "train"]["kl"][-1] > 0) == away
    ours = step(KTO(beta=0.2, desirable=1.5, undesirable=0.5), model, split)
    alike(ours, model, theirs, trainer.model)


def means(model: Any, inputs: Mapping[str, Tensor], trainer: Any) -> tuple[Tensor, Tensor]:
    """Return TRL's mean log-probability of a token of each chosen and each rejected answer."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    chosen, rejected = trainer.get_batch_logps(logits, labels, average_log_prob=True).chunk(2)
    return chosen, rejected


@pytest.mark.parametrize("named", ["orpo", "simpo"])
def test_a_step_without_a_reference_is_trl_s(named: str, tmp_path: Path) -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    folder = tiny_chat_lm(tmp_path / "model")
    model = load_model(folder, "preferences")
    moved(model)
    split = open_split(
        split_file(tiny_prepared(tmp_path / "r", {"train": tiny_preferences(6)}, kind="preferences").path, "train"), ()
    )
    twin = copy.deepcopy(model)
    inputs = chosen_first(marked(split.batch(np.arange(6), Collator.of(model))))
    if named == "orpo":
        chosen, rejected = means(twin, inputs, ORPOTrainer)
        asked = SimpleNamespace(beta=0.3, accelerator=ANYWHERE)
        theirs = -chosen.mean() - ORPOTrainer.odds_ratio_loss(asked, chosen, rejected)[0].mean()
        ours = step(ORPO(beta=0.3), model, split)
    else:
        chosen, rejected = means(twin, inputs, CPOTrainer)
        settings = {"loss_type": "simpo", "simpo_gamma": 0.7, "beta": 2.5, "label_smoothing": 0.0, "alpha": 0.0}
        asked = SimpleNamespace(accelerator=ANYWHERE, **settings)
        theirs = CPOTrainer.cpo_loss(asked, chosen, rejected)[0].mean()
        ours = step(SimPO(beta=2.5, margin=0.7), model, split)
    alike(ours, model, theirs, twin)


@pytest.mark.parametrize(("scale", "centring"), [(0.0, None), (1.0, 0.01)])
def test_a_step_of_a_reward_model_is_trl_s(scale: float, centring: float | None, tmp_path: Path) -> None:
    rows = tiny_comparisons(6)
    layout = ComparedTexts(chosen="chosen", rejected="rejected", margin="margin", max_tokens=24)
    data = tiny_prepared_as(tmp_path / "rows", layout, {"train": rows}, Processor.of(tiny_tokenizer()))
    found = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "tiny"))))
    start = base(BaseJob(model=found, kind="compared", labels=(), seed=1), Workspace(tmp_path))
    model = load(start, "compared").eval()
    moved(model)
    split, twin = open_split(split_file(data.path, "train"), ()), copy.deepcopy(model)
    batch = split.batch(np.arange(6), Collator.of(model))
    inputs = chosen_first(batch.inputs)
    if scale:
        assert batch.targets is not None
        assert batch.targets.tolist() == [row["margin"] for row in rows]
        inputs["margin"] = batch.targets
    asked = SimpleNamespace(
        model=twin,
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=ANYWHERE,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    theirs = trl.RewardTrainer.compute_loss(asked, _WithoutCache(twin, "margin"), inputs)
    ours = step(BradleyTerry(margin_scale=scale, centring=centring or 0.0), model, split)
    alike(ours, model, theirs, twin)


class _WithoutCache:
    """A classifier that is asked as TRL asks a decoder."""

    def __init__(self, model: nn.Module, *left_out: str) -> None:
        self.model, self.left_out = model, {"use_cache", *left_out}

    def __call__(self, **inputs: Any) -> Any:
        return self.model(**{name: of for name, of in inputs.items() if name not in self.left_out})


TEXTS, WORTH = [(0, 1, 1), (1,), (0, 0), (1, 0, 1)], [0.3, -1.0, 2.0, 0.1]
"""One prompt's answers and what they are worth: three lengths, padded with 0."""
ASKED: dict[str, Any] = {"reward": Length(most=9), "group_size": 4, "max_new_tokens": 5, "updates": 2}
KL: dict[str, Any] = {"beta": 0.2, "use_bias_correction_kl": False}
"""TRL's own default weighs k3 with the ratio to the policy that drew; the paper and we do not."""


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (GRPO(normaliser="grpo", beta=0.2, **ASKED), {"loss_type": "grpo", **KL}),
        (GRPO(normaliser="dr_grpo", beta=0.2, **ASKED), {"loss_type": "dr_grpo", **KL}),
        (GRPO(normaliser="dapo", beta=0.0, **ASKED), {"loss_type": "dapo", "beta": 0.0}),
        (RLOO(beta=0.05, **ASKED), {"beta": 0.05}),
    ],
    ids=["grpo", "dr_grpo", "dapo", "rloo"],
)
def test_a_later_update_of_a_policy_is_trl_s(ours: PolicyObjective, theirs: dict[str, Any], tmp_path: Path) -> None:
    """TRL computes advantages where it draws: they are numpy's here, of the same rewards; all else is its own."""
    before, start, now = bandit(0), bandit(1), bandit(0)
    asking = Asking(ours, now, Collator.of(now), ALONE, companions={START: start})
    split = answers(TEXTS, WORTH)
    pieces, count = asking.pieces(split, np.arange(4))
    moved(now, 0.2)
    twin = copy.deepcopy(now)
    loss = sum((asking.loss(split, piece).total for piece in pieces), torch.zeros(())) / count
    loss.backward()

    width = max(map(len, TEXTS))
    ids = torch.tensor([[*text, *[0] * (width - len(text))] for text in TEXTS])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in TEXTS])
    prompt = torch.from_numpy(PROMPT).long().expand(4, -1)

    def said(model: Any) -> Tensor:
        with torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, ids], 1)).logits[:, len(PROMPT) - 1 : -1]
        return log_softmax(logits, -1).gather(2, ids[..., None])[..., 0] * mask

    old, first = said(before), said(start)
    worth = np.array(WORTH)
    if isinstance(ours, RLOO):
        worth = worth - ours.beta * (old - first).sum(1).numpy()
        advantages = worth - (worth.sum() - worth) / 3
    else:
        advantages = (worth - worth.mean()) / (1 if ours.normaliser == "dr_grpo" else worth.std(ddof=1) + 1e-4)
    inputs = {
        **{"prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": ids},
        **{"completion_mask": mask, "advantages": torch.from_numpy(advantages), "num_items_in_batch": mask.sum()},
        **{"old_per_token_logps": old, "old_logps": old.sum(1), "ref_per_token_logps": first},
    }
    start.save_pretrained(tmp_path / "start")
    twin.config._name_or_path = str(tmp_path / "start")  # TRL loads a reference from there, and is given its numbers
    kind = "RLOO" if isinstance(ours, RLOO) else "GRPO"
    sizes = {"num_generations": 4, "per_device_train_batch_size": 4, "max_completion_length": 5, "epsilon": 0.2}
    trainer = getattr(trl, f"{kind}Trainer")(
        twin,
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)],
        args=getattr(trl, f"{kind}Config")(**options(tmp_path / "trl", **sizes, **theirs)),
        train_dataset=datasets.Dataset.from_list([{"prompt": "ask"}] * 4),
        processing_class=load_tokenizer(tiny_chat_lm(tmp_path / "words")),
    )
    trainer.model.eval()
    alike(loss.detach(), now, trainer._compute_loss(trainer.model, inputs), trainer.model)
