"""What the GPU tests share: every kind of batch on a tiny model, trained and asked on the GPU or on the processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format
from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.multi_label_text import MultiLabelText
from ftlib.data.formats.plain_text import PlainText
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.formats.question_answer import QuestionAnswer
from ftlib.data.formats.scored_text import ScoredText
from ftlib.data.formats.tagged_words import TaggedWords
from ftlib.data.processor import Processor
from ftlib.evaluation.inference import infer_here
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import (
    LABELS,
    tiny_causal_lm,
    tiny_classifier,
    tiny_lm_tokenizer,
    tiny_multi_label_rows,
    tiny_prepared_as,
    tiny_prompts,
    tiny_questions,
    tiny_rows,
    tiny_scored_rows,
    tiny_tagged_rows,
)
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace


def _told(count: int) -> list[dict[str, str | int]]:
    """Rows of which even the beginning says the label."""
    return tiny_rows(count, hints=9)


TAGS = ("B-BUG", "B-PAY", "I-BUG", "I-PAY", "O")

KINDS: dict[str, tuple[str, Format, Any, tuple[str, ...]]] = {
    "labeled": ("classification", LabeledText(text="text", label="label"), _told, LABELS),
    "multi_labeled": ("multi_label", MultiLabelText(text="text", labels="labels"), tiny_multi_label_rows, LABELS),
    "scored": ("regression", ScoredText(text="text", score="score"), tiny_scored_rows, ()),
    "tagged": ("token_classification", TaggedWords(words="words", tags="tags"), tiny_tagged_rows, TAGS),
    "spans": (
        "answer_span",
        QuestionAnswer(question="question", context="context", answers="answers"),
        tiny_questions,
        (),
    ),
    "tokens": ("causal_lm", PlainText(text="text"), tiny_rows, ()),
    "completions": (
        "completion",
        PromptCompletion(prompt="prompt", completion="completion", max_tokens=64),
        tiny_prompts,
        (),
    ),
}


@dataclass(frozen=True)
class Bench:
    """One kind's rows and starting checkpoint."""

    kind: str
    start: Checkpoint
    data: PreparedDataset

    @classmethod
    def make(cls, folder: Path, kind: str, rows: int = 96) -> Bench:
        """Write rows of uneven length and a model that learns them."""
        _, format, draw, labels = KINDS[kind]
        made = draw(rows + 32)
        if "text" in made[0]:
            made = [{**row, "text": " ".join(row["text"].split()[: 5 + 3 * i % 9])} for i, row in enumerate(made)]
        splits: Any = {"train": made[:rows], "validation": made[rows : rows + 16], "test": made[rows + 16 :]}
        data = tiny_prepared_as(folder / "data", format, splits, Processor.of(tiny_lm_tokenizer()))
        write = tiny_causal_lm if kind in ("tokens", "completions") else tiny_classifier
        model = find_model(ModelRef(path=str(write(folder / "tiny"))))
        start = base(BaseJob(model=model, kind=data.kind, labels=labels, seed=1), Workspace(folder))
        return cls(kind, start.model_copy(update={"tokenizer": data.tokenizer}), data)

    def job(self, *, use_gpu: bool, tuning: Any = None, precision: Any = "fp32", **fields: Any) -> TrainJob:
        """Return a phase of a few dozen steps."""
        settings = fields.pop("optimizer", AdamW(learning_rate=5e-3, epochs=6, batch_size=16))
        compute = {"workers": 0, "threads": 1, "use_gpu": use_gpu, **fields.pop("compute", {})}
        phase = {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": KINDS[self.kind][0]},
            "tuning": tuning or {"kind": "full"},
            "optimizer": settings,
            "dropout": 0.0,
            **fields,
        }
        return TrainJob(
            start=self.start,
            data=self.data,
            phase=Phase.model_validate(phase),
            precision=precision,
            seed=7,
            compute=Compute.model_validate(compute),
        )

    def train(self, root: Path, **fields: Any) -> Checkpoint:
        """Train that phase."""
        return train(self.job(**fields), Workspace(root))

    def ask(self, folder: Path, candidates: list[Candidate], *, use_gpu: bool) -> list[Outcomes]:
        """Return each candidate's table of the test rows."""
        files = tuple(str(folder / f"{i}.parquet") for i in range(len(candidates)))
        folder.mkdir()
        plan = PredictionPlan(
            name="d",
            candidates=tuple(candidates),
            files=files,
            data=self.data,
            split="test",
            max_new_tokens=8 if self.kind == "completions" else 0,
            compute=Compute(workers=0, threads=1, use_gpu=use_gpu),
        )
        infer_here(plan)
        return [read_outcomes(Path(file)) for file in files]


def losses(checkpoint: Checkpoint) -> list[float]:
    """Return the loss of every step and evaluation."""
    return [r.get("loss", r.get("validation_loss", 0.0)) for r in curves.read(checkpoint.path / curves.FILE)]
