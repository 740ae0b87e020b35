"""What a stage hands on is in the identity of all that follows: two bases in one work folder never mix.

The second base has the first one's tensors and beside them a file that was edited or saved again; the rows' token ids
stay the same, so nothing but the stages' fingerprints can tell the two apart.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import Accuracy
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import TOKENIZER_FILES, find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.interpolate import InterpolateJob, interpolate
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.select import SelectJob, select
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_causal_lm, tiny_classifier, tiny_rows, write_jsonl
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.stages.kit import COMPUTE

HANDED_ON = ("config.json", "generation_config.json", *TOKENIZER_FILES)


def edited(name: str, **values: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        facts = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps({**facts, **values}))

    return edit


def without_folding(folder: Path) -> None:
    """The rows are in lower case, so their ids stay."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"]["lowercase"] = False
    file.write_text(json.dumps(tokenizer))


EDITS: dict[str, Callable[[Path], object]] = {
    "a chat template": lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    "model_max_length": edited("tokenizer_config.json", model_max_length=64),
    "case folding": without_folding,
    "a config that equal tensors do not show": edited("config.json", hidden_act="relu"),
    "the order of the labels": edited("config.json", id2label={"0": "sales", "1": "bug", "2": "billing"}),
}


class Run:
    """The stages of a run over one base, in one work folder."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.work = Workspace(folder / "work")
        found = find_model(ModelRef(path=str(model)))
        rows = folder / "rows.jsonl"
        if not rows.exists():
            write_jsonl(rows, tiny_rows(60))
        dataset = Dataset.model_validate(
            {
                "source": {"kind": "files", "path": str(rows)},
                "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32},
                "split": {"validation": 0.2, "test": 0.2},
            }
        )
        raw = ingest(
            IngestJob(name="mail", source=dataset.source, files=dataset.source.pin(), limits=dataset.limits), self.work
        )
        self.data: PreparedDataset = preprocess(
            PreprocessJob(name="mail", raw=raw, dataset=dataset, model=found, tokenizer=found.tokenizer, trains=True),
            self.work,
        )
        self.trail = [base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), self.work)]
        for tuning, name in (("linear_probe", "probe"), ("full", "tune")):
            phase = Phase.model_validate(
                {"name": name, "dataset": "mail", "objective": {"kind": "classification"}, "tuning": {"kind": tuning},
                 "optimizer": {"epochs": 1, "learning_rate": 1e-3}}
            )  # fmt: skip
            job = TrainJob(start=self.trail[-1], data=self.data, phase=phase, precision="fp32", seed=0, compute=COMPUTE)
            self.trail.append(train(job, self.work))
        candidates = interpolate(
            InterpolateJob(
                start=self.trail[-2], end=self.trail[-1], interpolation={"kind": "wise_ft", "alphas": [0, 0.5, 1]}
            ),
            self.work,
        )
        evaluations = {"home": Evaluation(dataset="mail", metrics=(Accuracy(),), resamples=100)}
        self.report = evaluate(
            EvaluateJob(
                name="home", evaluation=evaluations["home"], candidates=candidates.members, data=self.data,
                split="validation", seed=0, compute=COMPUTE,
            ),
            self.work,
        )  # fmt: skip
        chosen = SelectJob(
            candidates=candidates, reports=(self.report,), evaluations=evaluations,
            select={"rule": "fixed", "by": "home/accuracy", "alpha": 0.5},
        )  # fmt: skip
        self.chosen: Candidate = select(chosen, self.work).chosen

    def outcomes(self) -> set[str]:
        return {cell.outcomes for cell in self.report.measured}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Run]:
    folder = tmp_path_factory.mktemp("handed-on")
    model = tiny_classifier(folder / "A", LABELS)
    return folder, model, Run(folder, model)


@pytest.mark.parametrize("edit", EDITS)
def test_the_second_base_in_a_work_folder_gets_all_of_its_own(first: tuple[Path, Path, Run], tmp_path: Path, edit: str):
    folder, model, before = first
    other = tmp_path / "B"
    shutil.copytree(model, other)
    EDITS[edit](other)
    now = Run(folder, other)
    assert {c.uri for c in now.trail}.isdisjoint(c.uri for c in before.trail)  # every stage ran again
    assert now.outcomes().isdisjoint(before.outcomes())
    published = tmp_path / "published"
    write_candidate(now.chosen, published)
    for place in (*(c.path / "model" for c in now.trail), published):
        for name in TOKENIZER_FILES:
            given = (other / name).read_bytes() if (other / name).exists() else None
            assert ((place / name).read_bytes() if (place / name).exists() else None) == given, name
    config = json.loads((published / "config.json").read_text())
    wanted = json.loads((other / "config.json").read_text())
    assert (config["hidden_act"], config["id2label"]) == (wanted["hidden_act"], wanted["id2label"])
    assert [c.labels for c in now.trail] == [tuple(wanted["id2label"].values())] * 3


def test_the_first_base_again_is_all_there(first: tuple[Path, Path, Run]):
    folder, model, before = first
    again = Run(folder, model)
    assert [(c.uri, c.seconds) for c in again.trail] == [(c.uri, c.seconds) for c in before.trail]
    assert again.outcomes() == before.outcomes()


def test_a_copy_of_the_base_elsewhere_is_the_same_base(first: tuple[Path, Path, Run], tmp_path: Path):
    folder, model, before = first
    shutil.copytree(model, tmp_path / "moved")
    assert [c.uri for c in Run(folder, tmp_path / "moved").trail] == [c.uri for c in before.trail]


def test_the_settings_a_language_model_writes_with_are_handed_on(tmp_path: Path):
    found: list[Checkpoint] = []
    model = tiny_causal_lm(tmp_path / "lm")
    for most in (7, 9, 7):
        edited("generation_config.json", max_new_tokens=most)(model)
        job = BaseJob(model=find_model(ModelRef(path=str(model))), kind="tokens", labels=(), seed=1)
        found.append(base(job, Workspace(tmp_path / "work")))
        settings = json.loads((found[-1].path / "model" / "generation_config.json").read_text())
        assert settings["max_new_tokens"] == most
    assert found[0] == found[2]
    assert found[0].weights == found[1].weights
    assert found[0].digest() != found[1].digest()


def test_a_tokenizer_edited_while_the_run_goes_on_is_refused(tmp_path: Path):
    found = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "model", LABELS))))
    edited("tokenizer_config.json", model_max_length=64)(tmp_path / "model")
    with pytest.raises(ModelError, match="tokenizer files changed or vanished since the run started; run again"):
        base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(tmp_path / "work"))


def test_a_record_says_what_its_folder_hands_on(first: tuple[Path, Path, Run]):
    """Counted by hand over the folder's bytes."""
    for checkpoint in first[2].trail:
        folder = checkpoint.path / "model"
        facts = {
            part: [[n, hashlib.sha256((folder / n).read_bytes()).hexdigest()] for n in names if (folder / n).exists()]
            for part, names in (("config", HANDED_ON[:2]), ("tokenizer", TOKENIZER_FILES))
        }
        for part, listed in facts.items():
            text = json.dumps(listed, separators=(",", ":"))
            assert getattr(checkpoint, part) == hashlib.sha256(text.encode()).hexdigest()
