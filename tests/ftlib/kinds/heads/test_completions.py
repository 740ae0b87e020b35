"""Language models asked with prompts: likelihood and writing, against stock transformers one row at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.processor import Processor
from ftlib.errors import DataError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.forward_pass import Share, batches_for, predict_split
from ftlib.evaluation.metrics import BitsPerByte, ExactMatch, Perplexity
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.completions import continued
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.kinds.outcomes.base import joined
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.adapter_sweep import AdapterSweep
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods import Lerp
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_checkpoint, tiny_lm_tokenizer, tiny_prepared_as, tiny_prompts
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import global_batches
from ftlib.training.objectives.completion import Completion
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace

FORMAT = PromptCompletion(prompt="prompt", completion="completion", max_tokens=64)
ROWS = [
    {
        "prompt": " ".join((row["prompt"] * 3).split()[: 3 + i]),
        "completion": " ".join(row["completion"].split()[: 1 + i % 7]),
    }
    for i, row in enumerate(tiny_prompts(46))
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = {"train": ROWS[:24], "validation": ROWS[24:30], "test": ROWS[30:]}
    return tiny_prepared_as(tmp_path_factory.mktemp("data"), FORMAT, rows, Processor.of(tiny_lm_tokenizer()))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"), labels=())


def prompts_of(split: PreparedSplit) -> list[torch.Tensor]:
    return [
        torch.tensor(split.tokens(row)[: split.lengths[row] - split.supervised[row]]).long()
        for row in range(len(split))
    ]


def test_the_loss_is_that_of_stock_transformers_with_the_prompt_masked(
    data: PreparedDataset, start: Checkpoint
) -> None:
    split = open_split(data.path / "train.arrow", ())
    stock = AutoModelForCausalLM.from_pretrained(start.path / "model").eval()
    total, count = 0.0, 0
    for row in range(len(split)):
        ids = torch.tensor(split.tokens(row)).long()[None]
        labels = ids.clone()
        labels[:, : split.lengths[row] - split.supervised[row]] = -100
        with torch.no_grad():
            total += float(stock(input_ids=ids, labels=labels).loss) * int(split.supervised[row])
        count += int(split.supervised[row])
    with torch.no_grad():
        ours = Completion().loss(stock, split.batch(range(len(split)), Collator.of(stock)))
    assert ours.count == count == int(split.supervised.sum())
    assert float(ours.total) == pytest.approx(total, rel=1e-5)


def test_no_gradient_comes_from_the_prompt_or_the_padding(data: PreparedDataset, start: Checkpoint) -> None:
    """Were the prompt's tokens targets, their logits would move."""
    split = open_split(data.path / "train.arrow", ())
    batch = split.batch([0, 5, 7], Collator.of(load_model(start.path / "model", "completions")))
    logits = torch.randn(*batch.inputs["input_ids"].shape, 300, requires_grad=True)
    Completion().loss(lambda **_: type("Out", (), {"logits": logits}), batch).total.backward()
    assert logits.grad is not None
    moved = logits.grad.abs().sum(dim=-1) > 0
    for i, row in enumerate([0, 5, 7]):
        length, supervised = int(split.lengths[row]), int(split.supervised[row])
        expected = [
            length - supervised - 1 <= position < length - 1 for position in range(batch.inputs["input_ids"].shape[1])
        ]
        assert moved[i].tolist() == expected


@pytest.mark.parametrize("tuning", [Full(), pytest.param(LoRA(rank=2), marks=pytest.mark.slow)], ids=["full", "lora"])
def test_the_split_of_a_batch_does_not_change_the_loss(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path, tuning: Full | LoRA
) -> None:
    settings = AdamW(learning_rate=1e-3, epochs=1, batch_size=8)
    phase = Phase(name="tune", dataset="d", objective=Completion(), tuning=tuning, optimizer=settings)
    losses = []
    for micro in (None, 1, 3):
        compute = Compute(workers=0, threads=1, micro_batch_size=micro)
        job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)
        done = train(job, Workspace(tmp_path / str(micro)))
        losses.append([r["loss"] for r in curves.read(done.path / curves.FILE) if "loss" in r])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)
    split = open_split(data.path / "train.arrow", ())
    model = load_model(start.path / "model", "completions")
    batch = split.batch(global_batches(split.lengths, 8, 7, 0)[0], Collator.of(model))
    with torch.no_grad():
        first = Completion().loss(model, batch)
    assert losses[0][0] == pytest.approx(float(first.total) / int(first.count), rel=1e-5)


def test_a_batch_is_continued_as_each_prompt_alone_by_stock_transformers(
    data: PreparedDataset, start: Checkpoint
) -> None:
    split, tokenizer = open_split(data.path / "test.arrow", ()), tiny_lm_tokenizer()
    stock = AutoModelForCausalLM.from_pretrained(start.path / "model").eval()
    prompts = prompts_of(split)
    assert len({len(prompt) for prompt in prompts}) > 3  # or nothing is padded
    for end in (tokenizer.eos_token_id, *common_token(stock, prompts)):
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
        with torch.inference_mode():
            together = continued(stock, prompts, tokenizer, 9)
            for prompt, ours in zip(prompts, together, strict=True):
                config = GenerationConfig(max_new_tokens=9, do_sample=False, eos_token_id=end, pad_token_id=0)
                whole = stock.generate(
                    prompt[None], attention_mask=torch.ones_like(prompt)[None], generation_config=config
                )
                expected = whole[0, len(prompt) :].tolist()
                assert ours == (expected[: expected.index(end)] if end in expected else expected)
    assert min(map(len, together)) < 9  # the last end token did end something


def common_token(model: torch.nn.Module, prompts: list[torch.Tensor]) -> list[int]:
    """Return a token that the model writes somewhere in the middle, so that taking it for the end shows."""
    with torch.inference_mode():
        tokenizer = tiny_lm_tokenizer()
        written = [token for ids in continued(model, prompts, tokenizer, 9) for token in ids[2:6]]
    return [max(set(written), key=written.count)]


def test_a_models_own_penalties_and_sampling_are_left_out_and_left_alone(
    data: PreparedDataset, start: Checkpoint
) -> None:
    split, tokenizer = open_split(data.path / "test.arrow", ()), tiny_lm_tokenizer()
    plain = AutoModelForCausalLM.from_pretrained(start.path / "model").eval()
    expected = continued(plain, prompts_of(split), tokenizer, 8)
    own = GenerationConfig(do_sample=True, temperature=3.0, repetition_penalty=9.0, max_new_tokens=2)
    plain.generation_config = own
    assert continued(plain, prompts_of(split), tokenizer, 8) == expected
    assert plain.generation_config is own


def test_outcomes_hold_what_was_asked(data: PreparedDataset, start: Checkpoint) -> None:
    split, model = open_split(data.path / "test.arrow", ()), load_model(start.path / "model", "completions")
    tokenizer = tiny_lm_tokenizer()
    silent = predict_split(model, split, (), lambda: tokenizer)
    found = predict_split(model, split, (), lambda: tokenizer, max_new_tokens=6)
    assert isinstance(silent, CompletionOutcomes)
    assert isinstance(found, CompletionOutcomes)
    assert silent.predicted is None
    assert found.references == tuple(row["completion"] for row in ROWS[30:])
    assert found.target_bytes.tolist() == [len(text.encode()) for text in found.references]
    np.testing.assert_array_equal(found.nll, silent.nll)
    prompts = prompts_of(split)
    for row in (0, 7, 15):
        (ids,) = continued(model, [prompts[row]], tokenizer, 6)
        assert found.written()[row] == tokenizer.decode(ids, skip_special_tokens=True)
        ids = torch.tensor(split.tokens(row)).long()
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        first = len(prompts[row])
        expected = -sum(float(logs[i - 1, ids[i]]) for i in range(first, len(ids)))
        assert found.nll[row] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("most", [0, 4])
def test_shares_of_the_rows_join_to_the_whole_table(data: PreparedDataset, start: Checkpoint, most: int) -> None:
    split, model = open_split(data.path / "test.arrow", ()), load_model(start.path / "model", "completions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftlib.evaluation.forward_pass.ROWS", 3)  # so that there are several batches to deal out
        whole = predict_split(model, split, (), tiny_lm_tokenizer, max_new_tokens=most)
        parts = [
            predict_split(
                model, split, (), tiny_lm_tokenizer, max_new_tokens=most, batches=batches_for(model, split, Share(i, 2))
            )
            for i in (0, 1)
        ]
    both = joined(parts)
    order = np.array([both.row_ids.index(row) for row in whole.row_ids])
    assert both.take(order).to_parquet() == whole.to_parquet()


@pytest.mark.slow
def test_an_adapter_in_memory_writes_as_the_merged_weights(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path
) -> None:
    settings = AdamW(learning_rate=2e-2, epochs=2, batch_size=8)
    phase = Phase(name="tune", dataset="d", objective=Completion(), tuning=LoRA(rank=4), optimizer=settings)
    job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=Compute(workers=0, threads=1))
    end = train(job, Workspace(tmp_path))
    split, tokenizer = open_split(data.path / "test.arrow", ()), tiny_lm_tokenizer()
    swept = AdapterSweep(Candidate.between(start, end, 0.5), "completions").at(Lerp(alpha=1.0))
    merged = load_model(end.path / "model", "completions")
    before = load_model(start.path / "model", "completions")
    ours, theirs, plain = (
        predict_split(model, split, (), lambda: tokenizer, max_new_tokens=5) for model in (swept, merged, before)
    )
    assert isinstance(ours, CompletionOutcomes)
    assert isinstance(theirs, CompletionOutcomes)
    assert isinstance(plain, CompletionOutcomes)
    assert ours.written() == theirs.written()
    np.testing.assert_allclose(ours.nll, theirs.nll, rtol=1e-4)
    assert ours.written() != plain.written()


def evaluation_job(data: PreparedDataset, start: Checkpoint, **fields: object) -> EvaluateJob:
    settings = {"dataset": "d", "metrics": [{"kind": "perplexity"}], "resamples": 100, **fields}
    return EvaluateJob(
        name="d",
        evaluation=Evaluation.model_validate(settings),
        candidates=(Candidate.of(start),),
        data=data,
        split="test",
        seed=0,
        compute=Compute(workers=0, threads=1),
    )


def test_what_a_model_writes_is_kept_apart_by_how_much_it_may_write(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path
) -> None:
    work = Workspace(tmp_path)
    text = [{"kind": "exact_match"}, {"kind": "rouge"}, {"kind": "bleu"}, {"kind": "chrf"}, {"kind": "bits_per_byte"}]
    (silent,) = evaluate(evaluation_job(data, start), work).measured
    (spoken,) = evaluate(evaluation_job(data, start, metrics=text, max_new_tokens=4), work).measured
    (longer,) = evaluate(evaluation_job(data, start, metrics=text, max_new_tokens=8), work).measured
    assert len({cell.outcomes for cell in (silent, spoken, longer)}) == 3
    assert list(spoken.metrics) == ["exact_match", "rougeL", "bleu", "chrf", "bits_per_byte"]
    assert set(spoken.signatures) == {"rougeL", "bleu", "chrf"}
    table = read_outcomes(tmp_path / longer.outcomes)
    assert isinstance(table, CompletionOutcomes)
    assert ExactMatch().compute(table) == longer.metrics["exact_match"].value
    assert Perplexity().compute(table) == silent.metrics["perplexity"].value
    assert BitsPerByte().compute(table) == spoken.metrics["bits_per_byte"].value


def test_writing_beyond_the_models_positions_is_refused(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path
) -> None:
    positions = json.loads((start.path / "model" / "config.json").read_text())["max_position_embeddings"]
    longest = max(map(len, prompts_of(open_split(data.path / "test.arrow", ()))))
    with pytest.raises(DataError, match=f"prompt of {longest} tokens, max_new_tokens: 120 goes beyond the {positions}"):
        evaluate(evaluation_job(data, start, max_new_tokens=120), Workspace(tmp_path))
