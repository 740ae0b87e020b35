"""KL between language models against scipy in float64, one unpadded row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import scipy.special
import torch

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format
from ftlib.data.formats.plain_text import PlainText
from ftlib.data.formats.preference import Preference
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.formats.thumb import Thumb
from ftlib.data.processor import Processor
from ftlib.data.rows import Example, Values
from ftlib.errors import ModelError
from ftlib.evaluation import divergence
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.forward_pass import predict_split
from ftlib.evaluation.results import divergence_per_token
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import (
    tiny_causal_lm,
    tiny_checkpoint,
    tiny_lm_tokenizer,
    tiny_preferences,
    tiny_prepared_as,
    tiny_prompts,
    tiny_thumbs,
)

FORMATS: dict[str, Format] = {
    "tokens": PlainText(text="prompt", max_tokens=128),
    "completions": PromptCompletion(prompt="prompt", completion="completion", max_tokens=64),
}
ROWS = [{**row, "prompt": " ".join(row["prompt"].split()[: 2 + i])} for i, row in enumerate(tiny_prompts(14))]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = tiny_checkpoint(folder / "start", labels=())
    return start, tiny_checkpoint(folder / "end", labels=(), start=start, seed=1)


@pytest.fixture(params=FORMATS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> PreparedDataset:
    return tiny_prepared_as(tmp_path, FORMATS[request.param], {"test": ROWS}, Processor.of(tiny_lm_tokenizer()))


def by_hand(theirs: torch.nn.Module, ours: torch.nn.Module, split: PreparedSplit) -> list[float]:
    found = []
    for row in range(len(split)):
        ids = torch.tensor(split.tokens(row)).long()[None]
        with torch.no_grad():
            logits = [model(input_ids=ids).logits[0].numpy().astype(np.float64) for model in (theirs, ours)]
        p, q = (scipy.special.log_softmax(one, axis=1) for one in logits)
        places = range(ids.shape[1] - 1 - int(split.supervised[row]), ids.shape[1] - 1)
        found.append(sum(float((np.exp(p[i]) * (p[i] - q[i])).sum()) for i in places))
    return found


def test_it_is_the_sum_over_the_vocabulary_at_every_supervised_token(
    data: PreparedDataset, ends: tuple[Checkpoint, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_split(data.path / "test.arrow", ())
    theirs, ours = (load_model(end.path / "model", data.kind) for end in ends)
    expected = by_hand(theirs, ours, split)
    found = token_divergence(theirs, ours, split)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert min(expected) > 0.01
    np.testing.assert_array_equal(token_divergence(ours, ours, split), np.zeros(len(split)))
    monkeypatch.setattr(divergence, "POSITIONS", 7)
    np.testing.assert_allclose(token_divergence(theirs, ours, split), found, rtol=1e-12)


ANSWERED: dict[str, tuple[Format, Sequence[Mapping[str, object]]]] = {
    "preferences": (
        Preference(prompt="prompt", chosen="chosen", rejected="rejected", max_tokens=64),
        [{**row, "chosen": " ".join([row["chosen"]] * (1 + i % 2))} for i, row in enumerate(tiny_preferences(12))],
    ),
    "judged": (Thumb(prompt="prompt", answer="answer", label="label", max_tokens=64), tiny_thumbs(12)),
}
"""Rows whose answers lie behind a prompt that is not asked about: two sequences each, and one."""


@pytest.mark.parametrize("kind", ANSWERED)
def test_of_answers_that_people_judged_it_is_over_the_answers_alone(
    kind: str, ends: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    format, rows = ANSWERED[kind]
    processor = Processor.of(tiny_lm_tokenizer())
    data = tiny_prepared_as(tmp_path, format, {"test": rows}, processor)
    assert data.kind == kind
    split = open_split(data.path / "test.arrow", ())
    assert len({*split.lengths.tolist()}) > 1  # a batch fills shorter rows up
    theirs, ours = (load_model(end.path / "model", data.kind) for end in ends)
    examples = [format.example(cast("Values", row)) for row in rows]
    encoded = format.encode([one for one in examples if isinstance(one, Example)], processor)
    expected, tokens = [], []
    for row, cut in enumerate(encoded):
        target: Any = cut.pieces[0].target
        ids, places = split.tokens(row), target["places"]
        # A pair's sequences lie one behind the other: where each answer begins, and where its sequence ends.
        sequences = [(0, *places)] if kind == "judged" else [(0, *places[:2]), (places[1], *places[2:])]
        told = [of_answer(theirs, ours, ids[begin:end], first - begin) for begin, first, end in sequences]
        expected.append(sum(map(sum, told)))
        tokens.append(sum(map(len, told)))
    found = token_divergence(theirs, ours, split)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert min(expected) > 0.01
    assert (
        predict_split(ours, split, (), tiny_lm_tokenizer).answer_tokens.tolist() == tokens
    )  # what a mean per token divides by


def of_answer(theirs: torch.nn.Module, ours: torch.nn.Module, ids: np.ndarray[Any, Any], first: int) -> list[float]:
    """KL of every token from `first` on, which the position before it predicts; one unpadded sequence."""
    with torch.no_grad():
        logits = [
            model(input_ids=torch.tensor(ids).long()[None]).logits[0].double().numpy() for model in (theirs, ours)
        ]
    p, q = (scipy.special.softmax(one, axis=1)[first - 1 : len(ids) - 1] for one in logits)
    return scipy.special.rel_entr(p, q).sum(axis=1).tolist()


def test_a_word_that_the_reference_rules_out_costs_nothing() -> None:
    p, q = torch.tensor([[0.0, -torch.inf, 1.0]]), torch.tensor([[0.5, 2.0, 0.0]])
    kept = scipy.special.rel_entr(*(scipy.special.softmax(side.double().numpy()[0]) for side in (p, q))).sum()
    assert divergence._kl(p, q).tolist() == pytest.approx([kept])


def test_another_vocabulary_is_refused(ends: tuple[Checkpoint, Checkpoint], tmp_path: Path) -> None:
    data = tiny_prepared_as(tmp_path / "d", FORMATS["tokens"], {"test": ROWS}, Processor.of(tiny_lm_tokenizer()))
    split = open_split(data.path / "test.arrow", ())
    other = load_model(tiny_causal_lm(tmp_path / "other"), "tokens")
    cast(Any, other).resize_token_embeddings(300)
    with pytest.raises(ModelError, match="needs one vocabulary; got 300 and"):
        token_divergence(other, load_model(ends[0].path / "model", "tokens"), split)


def test_the_mean_per_token_is_drawn_by_rows() -> None:
    random = np.random.default_rng(0)
    sums, tokens = random.gamma(2, 1, 30), random.integers(1, 9, 30)
    resampling = Resampling(200, 0.9, 3)
    found, drawn = divergence_per_token(sums, tokens, resampling)
    draws = np.concatenate(list(resampling.draws(30)))
    means = [sum(sums[i] for i in draw) / sum(tokens[i] for i in draw) for draw in draws]
    assert found.value == pytest.approx(sums.sum() / tokens.sum())
    assert drawn == pytest.approx(means)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
