"""pass@k against every choice of k out of n, and the answers it is computed from against the sampler."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.processor import Processor
from ftlib.errors import DataError
from ftlib.evaluation.forward_pass import Share, batches_for, predict_split
from ftlib.evaluation.metrics.pass_at_k import PassAtK, pass_at_k
from ftlib.kinds.heads.completions import seed_of
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import CompletionOutcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.kinds.samples import Samples
from ftlib.kinds.sampling import sample
from ftlib.testing import tiny_checkpoint, tiny_lm_tokenizer, tiny_prepared_as, tiny_prompts
from ftlib.training.rewards.regex import Regex


def test_it_is_the_share_of_all_choices_that_hold_a_right_answer() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            right = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                choices = [any(choice) for choice in combinations(right, k)]
                got = pass_at_k(np.array([n]), np.array([c]), k)[0]
                assert got == pytest.approx(np.mean(choices), abs=1e-12)
    assert pass_at_k(np.array([1000]), np.array([1]), 100)[0] == pytest.approx(0.1)  # no factorial overflows


def test_it_is_unbiased_where_the_plug_in_estimate_is_not() -> None:
    random, p, n, k = np.random.default_rng(0), 0.2, 5, 3
    right = random.binomial(n, p, size=40_000)
    truth = 1 - (1 - p) ** k
    assert pass_at_k(np.full(len(right), n), right, k).mean() == pytest.approx(truth, abs=0.01)
    assert (1 - (1 - right / n) ** k).mean() < truth - 0.03


def table(sampled: tuple[tuple[tuple[str, bool], ...], ...] | None) -> CompletionOutcomes:
    count = 2
    return CompletionOutcomes(
        row_ids=("a", "b"),
        slices={},
        nll=np.zeros(count),
        targets=np.ones(count, np.int64),
        target_bytes=np.ones(count, np.int64),
        references=("7", "9"),
        predicted=("7", "8"),
        prompts=("3 + 4 =", "3 * 3 ="),
        ended=(True, True),
        sampled=sampled,
    )


def test_any_checker_says_what_is_right() -> None:
    outcomes = table(
        ((("7", True), (" 7 ", True), ("8", True), ("9", True)), (("8", True), ("7", True), ("x", True), ("9", False)))
    )
    np.testing.assert_allclose(PassAtK(k=1).per_row(outcomes), [0.5, 0.25])
    np.testing.assert_allclose(PassAtK(k=2).per_row(outcomes), [1 - 1 / 6, 0.5])
    digits = PassAtK(k=1, checker=Regex(pattern=r"\d"))
    np.testing.assert_allclose(digits.per_row(outcomes), [1.0, 0.75])
    again = parse_outcomes(outcomes.to_parquet())
    assert isinstance(again, CompletionOutcomes)
    assert again.sampled == outcomes.sampled
    assert (PassAtK(k=4).name, PassAtK(k=4).least_samples) == ("pass_at_4", 4)
    with pytest.raises(DataError, match="hold no drawn answers"):
        PassAtK(k=1).per_row(table(None))
    with pytest.raises(ValidationError, match="'model' asks a model, which knows no right and wrong"):
        PassAtK.model_validate({"checker": {"kind": "model"}})


def test_answers_are_drawn_by_row_and_number_however_they_are_batched(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", ())
    rows = tiny_prompts(12)
    format = PromptCompletion(prompt="prompt", completion="completion")
    data = tiny_prepared_as(
        tmp_path / "data", format, {"test": rows}, Processor.of(tiny_lm_tokenizer()), quoted="prompt"
    )
    split, model = open_split(data.path / "test.arrow", ()), load_model(start.folder, "completions")
    samples = Samples(count=3, temperature=0.7, seed=5)
    whole = predict_split(model, split, (), tiny_lm_tokenizer, max_new_tokens=4, samples=samples)
    assert isinstance(whole, CompletionOutcomes)
    prompts = [split.tokens(row)[: split.lengths[row] - split.supervised[row]] for row in range(len(split))]
    tokenizer = tiny_lm_tokenizer()
    for row in (0, 11):
        seeds = [seed_of(5, row, number) for number in range(3)]
        prompt = torch.tensor(prompts[row]).long()
        own = sample(model, [prompt] * 3, seeds=seeds, max_new_tokens=4, temperature=0.7, ends={tokenizer.eos_token_id})
        texts = [tokenizer.decode(one.answer, skip_special_tokens=True) for one in own]
        assert whole.drawn()[1][row] == tuple(zip(texts, [one.ended for one in own], strict=True))
    assert len({answer for answers in whole.drawn()[1] for answer in answers}) > 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftlib.evaluation.forward_pass.ROWS", 5)
        parts = [
            predict_split(
                model,
                split,
                (),
                tiny_lm_tokenizer,
                max_new_tokens=4,
                samples=samples,
                batches=batches_for(model, split, Share(i, 2)),
            )
            for i in (0, 1)
        ]
    both = joined(parts)
    assert isinstance(both, CompletionOutcomes)
    order = [both.row_ids.index(row) for row in whole.row_ids]
    assert [both.drawn()[1][i] for i in order] == [*whole.drawn()[1]]
