"""Zero-shot heads: by hand with stock encoders, refits that leave a row out, and what must not change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    LlamaConfig,
    RobertaConfig,
)

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError, TrainingError
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.merging.candidate_weights import check_candidate, mix_into, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_labels
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_prepared, tiny_recipe, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.zero_shot import ZeroShot
from ftlib.workspace import Workspace

SIZES: dict[str, Any] = {"vocab_size": len(tiny_tokenizer()), "pad_token_id": 0, "initializer_range": 0.4}
FAMILIES = {
    "bert": BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SIZES
    ),
    "roberta": RobertaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **SIZES
    ),
    "distilbert": DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, **SIZES),
    "llama": LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32,
        bos_token_id=2, eos_token_id=3, **SIZES,
    ),
}  # fmt: skip
"""A pooler; a dense layer with tanh; one with ReLU; no layer between and no bias."""

ROWS = tiny_rows(70)
SENTENCES = {
    "billing": ("invoice and payment", "the price of a subscription"),
    "bug": ("crash and error",),
    "sales": ("a quote", "demo of the licence", "seats for the team"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": ROWS[:48], "validation": ROWS[48:]})


def begun(family: str, folder: Path) -> Checkpoint:
    """Return the base stage's checkpoint of a bare encoder."""
    torch.manual_seed(3)
    AutoModel.from_config(FAMILIES[family]).save_pretrained(folder / "bare")
    tiny_tokenizer().save_pretrained(folder / "bare")
    found = find_model(ModelRef(path=str(folder / "bare")))
    return base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(folder))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return begun("bert", tmp_path_factory.mktemp("start"))


def run(start: Checkpoint, data: PreparedDataset, root: Path, tuning: object = None, **fields: Any) -> Checkpoint:
    phase = {"name": "zero-shot", "dataset": "d", "objective": {"kind": "classification"}}
    job = TrainJob(
        start=start,
        data=data,
        phase=Phase.model_validate({**phase, "tuning": tuning or {"kind": "zero_shot", **fields}}),
        precision="fp32",
        seed=7,
        compute=Compute(workers=0, threads=1),
    )
    return train(job, Workspace(root))


class ByHand:
    """What stock transformers says of texts, one at a time and without padding."""

    def __init__(self, start: Checkpoint, embedding: str) -> None:
        self.body = AutoModel.from_pretrained(start.folder).eval()
        self.headless = AutoModelForSequenceClassification.from_pretrained(start.folder).eval()
        owner, name = self.headless, "score" if hasattr(self.headless, "score") else "classifier"
        if hasattr(getattr(owner, name), "out_proj"):
            owner, name = owner.classifier, "out_proj"
        self.has_bias = getattr(owner, name).bias is not None
        setattr(owner, name, torch.nn.Identity())
        self.tokenizer = AutoTokenizer.from_pretrained(start.folder)
        self.embedding = embedding

    def ids(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer(text)["input_ids"])[None]

    @torch.no_grad()
    def features(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self.headless(input_ids=self.ids(text)).logits[0].double().numpy() for text in texts])

    @torch.no_grad()
    def embedded(self, texts: Sequence[str]) -> np.ndarray:
        hidden = [self.body(input_ids=self.ids(text)).last_hidden_state[0].double().numpy() for text in texts]
        vectors = np.stack([one[0] if self.embedding == "first" else one.mean(axis=0) for one in hidden])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def labels(self, said: Mapping[str, Sequence[str]]) -> np.ndarray:
        means = np.stack([self.embedded(said[label]).mean(axis=0) for label in LABELS])
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def ridge(x: np.ndarray, y: np.ndarray, strength: float, *, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """Solve the normal equations of the centred rows."""
    middle_x, middle_y = (x.mean(axis=0), y.mean(axis=0)) if intercept else (0 * x[0], 0 * y[0])
    x, y = x - middle_x, y - middle_y
    weight = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y).T
    return weight, middle_y - weight @ middle_x


def left_out(x: np.ndarray, y: np.ndarray, strength: float, *, intercept: bool) -> float:
    """Fit once without each row, and return the mean squared error of what is said of it."""
    errors = []
    for i in range(len(x)):
        weight, bias = ridge(np.delete(x, i, 0), np.delete(y, i, 0), strength, intercept=intercept)
        errors.append(np.square(weight @ x[i] + bias - y[i]).mean())
    return float(np.mean(errors))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("embedding", ["mean", "first"])
def test_logits_are_the_mapped_rows_times_the_embedded_labels(
    family: str, embedding: str, data: PreparedDataset, tmp_path: Path
) -> None:
    """Stock encoders, refits by the normal equations, and the saved folder as stock transformers loads it."""
    start = begun(family, tmp_path)
    if (family, embedding) == ("llama", "first"):  # a decoder's first token sees no other
        with pytest.raises(TrainingError, match="the embedding is the same for every training row: give it rows that"):
            run(start, data, tmp_path, sentences=SENTENCES, embedding=embedding)
        return
    made = run(start, data, tmp_path, sentences=SENTENCES, embedding=embedding, scale=20)
    hand = ByHand(start, embedding)
    train, unseen = ([str(row["text"]) for row in rows] for rows in (ROWS[:48], ROWS[48:]))
    x, y = hand.features(train), hand.embedded(train)
    usual = x.var(axis=0).mean() * len(x)
    strengths = [part * usual for part in (10, 3, 1, 0.3, 0.1, 0.03, 0.01)]
    errors = [left_out(x, y, strength, intercept=hand.has_bias) for strength in strengths]
    map, shift = ridge(x, y, strengths[int(np.argmin(errors))], intercept=hand.has_bias)
    expected = 20 * (hand.features(unseen) @ map.T + shift) @ hand.labels(SENTENCES).T

    stock = AutoModelForSequenceClassification.from_pretrained(made.folder).eval()
    with torch.no_grad():
        logits = np.stack([stock(input_ids=hand.ids(text)).logits[0].numpy() for text in unseen])
    np.testing.assert_allclose(logits, expected, atol=2e-3 * np.abs(expected).max())
    assert made.facts["explained"] == pytest.approx(1 - min(errors) / y.var(axis=0).mean(), abs=2e-3)
    assert made.facts["sentences"] == 6
    body, fresh = (load_model(one.folder, "labeled").state_dict() for one in (made, start))
    assert [name for name in body if not torch.equal(body[name], fresh[name])] == [*head_of(made)]
    assert (made.fresh_head, start.fresh_head) == (False, True)


def head_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the last layer's tensors, in the order of the model's."""
    names = load_model(checkpoint.folder, "labeled").state_dict()
    return tuple(n for n in names if n.startswith(("classifier.out_proj.", "score."))) or tuple(
        n for n in names if n.startswith("classifier.")
    )


def head(checkpoint: Checkpoint) -> list[torch.Tensor]:
    state = load_model(checkpoint.folder, "labeled").state_dict()
    return [state[name] for name in head_of(checkpoint)]


def test_what_the_head_reads_can_be_the_embedding_itself(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """Weight rows are scale x embedding over the rows' size, and there is no bias."""
    made = run(start, data, tmp_path, embedding="head", scale=5)
    hand = ByHand(start, "head")
    named = hand.features(LABELS)
    size = np.sqrt(np.square(hand.features([str(row["text"]) for row in ROWS[:48]])).sum(axis=1).mean())
    weight, bias = head(made)
    expected = 5 * named / np.linalg.norm(named, axis=1, keepdims=True) / size
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert not bias.any()
    assert "explained" not in made.facts


def test_no_label_of_a_row_is_read_where_the_scale_is_given(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    turned = [{**row, "label": LABELS[(LABELS.index(str(row["label"])) + 1) % 3]} for row in ROWS]
    other = tiny_prepared(tmp_path / "turned", {"train": turned[:48], "validation": turned[48:]})
    one, two = (run(start, rows, tmp_path, sentences=SENTENCES, scale=20) for rows in (data, other))
    assert one.weights == two.weights
    assert one.fingerprint != two.fingerprint
    assert one.facts["final_loss"] != two.facts["final_loss"]


def test_twice_the_scale_is_twice_the_logits_to_the_bit(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    one, two = (run(start, data, tmp_path, scale=scale) for scale in (11, 22))
    assert all(torch.equal(2 * small, large) for small, large in zip(head(one), head(two), strict=True))


def test_templates_and_names_are_multiplied_out_and_the_order_of_sentences_is_nothing(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    templates = ("a question about {label}", "{label} again")
    short = ZeroShot(sentences={label: (label, f"more {label}") for label in LABELS}, templates=templates, scale=9)
    assert short.spoken(LABELS)["bug"] == (
        "a question about bug", "a question about more bug", "bug again", "more bug again",
    )  # fmt: skip
    said = {label: tuple(reversed(one)) for label, one in reversed(short.spoken(LABELS).items())}
    ours, long = run(start, data, tmp_path, short), run(start, data, tmp_path, sentences=said, scale=9)
    for one, other in zip(head(ours), head(long), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_other_places_of_the_labels_are_other_places_of_the_rows(data: PreparedDataset, tmp_path: Path) -> None:
    turned, heads = LABELS[1:] + LABELS[:1], []
    begun("bert", tmp_path)
    found = find_model(ModelRef(path=str(tmp_path / "bare")))
    for labels in (LABELS, turned):
        start = base(BaseJob(model=found, kind="labeled", labels=labels, seed=1), Workspace(tmp_path))
        heads.append(head(run(start, data, tmp_path, sentences=SENTENCES, scale=20)))
    for one, other in zip(*heads, strict=True):
        torch.testing.assert_close(one.roll(-1, 0), other, rtol=1e-4, atol=1e-5)


def test_the_scale_has_the_least_loss_on_validation_rows(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    made, unit = (
        run(start, data, tmp_path, sentences=SENTENCES),
        run(start, data, tmp_path, sentences=SENTENCES, scale=1),
    )
    stock = AutoModelForSequenceClassification.from_pretrained(unit.folder).eval()
    split, hand = open_split(data.path / "validation.arrow", LABELS), ByHand(start, "mean")
    with torch.no_grad():
        logits = torch.stack([stock(input_ids=hand.ids(str(row["text"]))).logits[0] for row in ROWS[48:]]).double()
    losses = [
        log_loss([row["label"] for row in ROWS[48:]], (scale * logits).softmax(-1).numpy(), labels=LABELS)
        for scale in ZeroShot.SCALES
    ]
    assert made.facts["scale"] == ZeroShot.SCALES[int(np.argmin(losses))]
    assert made.facts["scale_chosen_on"] == f"{len(split)} validation rows"
    assert "scale_chosen_on" not in unit.facts

    bare = tiny_prepared(tmp_path / "bare", {"train": ROWS[:48]})
    ours, usual = run(start, bare, tmp_path), run(start, bare, tmp_path, scale=ZeroShot.USUAL)
    assert (ours.facts["scale"], ours.facts["scale_chosen_on"]) == (20.0, "nothing, without validation rows")
    assert ours.weights == usual.weights


def test_alpha_0_is_the_zero_shot_model_to_the_bit(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    """The line from zero-shot to fine-tuned needs nothing new of merging: theta0 is the start, its head included."""
    zero = run(start, data, tmp_path, sentences=SENTENCES)
    job = TrainJob(
        start=zero,
        data=data,
        phase=Phase.model_validate(
            {
                "name": "tune",
                "dataset": "d",
                "objective": {"kind": "classification"},
                "tuning": {"kind": "full"},
                "optimizer": AdamW(learning_rate=1e-3, epochs=1, batch_size=16),
            }
        ),
        precision="fp32",
        seed=7,
        compute=Compute(workers=0, threads=1),
    )
    tuned = train(job, Workspace(tmp_path))
    assert tuned.parent == zero.weights
    states = []
    for alpha in (0.0, 0.5, 1.0):
        candidate = Candidate.between(zero, tuned, alpha)
        check_candidate(candidate)
        model = load_model(zero.folder, "labeled")
        mix_into(model, candidate)
        states.append(model.state_dict())
    assert write_candidate(Candidate.between(zero, tuned, 0.0), tmp_path / "out").weights == zero.weights
    assert (tmp_path / "out/model.safetensors").read_bytes() == (zero.folder / "model.safetensors").read_bytes()
    for name, first in load_model(zero.folder, "labeled").state_dict().items():
        assert torch.equal(states[0][name], first)
        torch.testing.assert_close(states[1][name], (states[0][name] + states[2][name]) / 2)
    assert not torch.equal(states[0]["classifier.weight"], states[2]["classifier.weight"])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{kind: zero_shot, templates: [a question]}", "templates: 'a question' would say the same of every label"),
        ("{kind: zero_shot, templates: []}", "templates: at least 1, got []"),
        ("{kind: zero_shot, templates: ['  ']}", "templates: '  ' would say the same of every label"),
        ("{kind: zero_shot, sentences: {bug: []}}", "sentences.bug: at least 1, got []"),
        (
            "{kind: zero_shot, sentences: {bug: ['', a]}}",
            "sentences.bug[0]: '' says nothing of the label; write a name or a sentence",
        ),
        ("{kind: zero_shot, sentences: {bug: crash}}", "sentences.bug: input should be a valid tuple, got 'crash'"),
        ("{kind: zero_shot, sentences: {bug: [a], sales: [b, a]}}", "sentences: the labels 'bug' and 'sales' have a s"),
        ("{kind: zero_shot, scale: 0}", "scale: got 0, allowed are auto and numbers above 0"),
        ("{kind: zero_shot, scale: warm}", "scale: got 'warm', allowed are auto and numbers above 0"),
        ("{kind: zero_shot, embedding: cls}", "embedding: input should be 'mean', 'first' or 'head', got 'cls'"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, given: str, line: str) -> None:
    path = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, [f"phases.probe.tuning={given}"])
    (said,) = str(refused.value).splitlines()
    assert f"phases[probe].tuning.{line}" in said, said


@pytest.mark.parametrize(
    ("sentences", "line"),
    [
        ({"bug": ["a"], "sales": ["b"]}, "nothing is said of the label 'billing'; give each label of the rows at"),
        ({**SENTENCES, "parcel": ["c"]}, "no row has the label 'parcel'; the rows have billing, bug, sales: remove"),
        ({**SENTENCES, " bug": ["c"]}, "two of its names are one label; join their sentences"),
    ],
)
def test_sentences_are_for_the_labels_of_the_rows(
    data: PreparedDataset, tmp_path: Path, sentences: object, line: str
) -> None:
    """Before anything is trained: as soon as the rows have said what their labels are."""
    recipe = load_recipe(tiny_recipe(tmp_path))
    tuning = ZeroShot.model_validate({"sentences": sentences})
    recipe = recipe.model_copy(update={"phases": (recipe.phases[0].model_copy(update={"tuning": tuning}),)})
    facts = {"train": data.splits["train"], "validation": data.splits["validation"], "test": data.splits["validation"]}
    prepared = data.model_copy(update={"splits": facts})
    with pytest.raises(RecipeError, match=line) as refused:
        check_labels(recipe, {"home": prepared, "away": prepared})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            {"sentences": {**SENTENCES, "bug": ["A quote"]}},
            "'a quote' of the label 'sales' is one of 'bug' too, as the",
        ),
        ({"sentences": {**SENTENCES, "bug": ["\u200b"]}}, r"of the label 'bug' has no token that the model knows"),
        ({"sentences": {**SENTENCES, "bug": ["crash " * 600]}}, "has 602 tokens, and the model reads 512; shorten it"),
    ],
)
def test_what_the_tokenizer_makes_of_sentences_is_checked(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, fields: Any, line: str
) -> None:
    with pytest.raises(RecipeError, match=line) as refused:
        run(start, data, tmp_path, **fields)
    assert "\n" not in str(refused.value)


def test_rows_that_no_map_can_be_fitted_on_are_refused(start: Checkpoint, tmp_path: Path) -> None:
    alike = [{"text": "the same", "label": label} for label in LABELS]
    for rows, line in (
        (alike, "what the head reads is the same for every training row"),
        (alike[:1], "at least 2 training rows, got 1"),
    ):
        few = tiny_prepared(tmp_path / str(len(rows)), {"train": rows})
        with pytest.raises(TrainingError, match=line):
            run(start, few, tmp_path)
