"""Prompts that are learnt: prompt tuning, prefix tuning, P-tuning, against what stock peft makes of them."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForTokenClassification,
    LlamaConfig,
)
from transformers import LlamaForSequenceClassification as Llama

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.plain_text import PlainText
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.publish_check import adapter_version_difference
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.completions import continued
from ftlib.kinds.loading import load, load_tokenizer, merged
from ftlib.kinds.open_split import open_split
from ftlib.kinds.padding import check_prompted
from ftlib.kinds.soft_prompts import answering_for_its_input
from ftlib.merging.candidates import Candidate
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.limits import limits_of
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_checkpoint, tiny_lm_tokenizer, tiny_prepared, tiny_prepared_as, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.p_tuning import PTuning
from ftlib.training.tuning.prompt_tuning import PromptTuning
from ftlib.workspace import Workspace
from tests.ftlib.stages.test_adapter_checkpoints import logits, losses, trained
from tests.ftlib.training.stopping import stopped_at

PLACES = 3
TUNINGS: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt_tuning", "virtual_tokens": PLACES},
    "prefix": {"kind": "prefix_tuning", "virtual_tokens": PLACES},
    "p": {"kind": "p_tuning", "virtual_tokens": PLACES, "hidden": 16},
    "projected": {"kind": "prefix_tuning", "virtual_tokens": PLACES, "projection": True, "hidden": 16},
    "lstm": {"kind": "p_tuning", "virtual_tokens": PLACES, "encoder": "lstm", "hidden": 16},
}
FEW = ["prompt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("prefix", "p", "projected", "lstm"))]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": tiny_rows(32), "validation": tiny_rows(8, seed=1)})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("decoder"), ())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows: Any = {"train": tiny_rows(32), "validation": tiny_rows(8, seed=1), "test": tiny_rows(8, seed=2)}
    processor = Processor.of(tiny_lm_tokenizer())
    return tiny_prepared_as(tmp_path_factory.mktemp("texts"), PlainText(text="text", max_tokens=24), rows, processor)


@pytest.fixture(scope="module")
def ends(
    tmp_path_factory: pytest.TempPathFactory, decoder: Checkpoint, texts: PreparedDataset
) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("ends")
    return {name: trained(root, decoder, texts, **TUNINGS[name]) for name in ("prompt", "prefix", "p")}


def over_stock(decoder: Checkpoint, end: Checkpoint) -> Any:
    return peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(decoder.folder), end.folder).eval()


@pytest.mark.parametrize("name", ["prompt", "prefix", "p"])
def test_the_loss_of_a_language_model_is_stock_peft_s(
    decoder: Checkpoint, texts: PreparedDataset, ends: dict[str, Checkpoint], name: str
):
    """Row by row, by peft's own labels: it puts the prompt before them, and no logit of ours is one too far."""
    split = open_split(split_file(texts.path, "train"), ())
    stock, ours = over_stock(decoder, ends[name]), load(ends[name], "tokens")
    total, count = 0.0, 0
    with torch.inference_mode():
        for row in range(8):
            ids = torch.tensor(split.tokens(row)).long()[None]
            labels = ids.clone()
            labels[:, 0] = -100  # peft would have the prompt's last place predict it
            total += float(stock(input_ids=ids, labels=labels).loss) * (ids.shape[1] - 1)
            count += ids.shape[1] - 1
        loss = CausalLM().loss(ours, split.batch(range(8), Collator.of(ours)))
    assert int(loss.count) == count
    assert float(loss.total) == pytest.approx(total, rel=1e-5)
    said = stock(input_ids=torch.tensor([[2, 7, 9]])).logits
    assert said.shape[1] == 3 + (0 if name == "prefix" else PLACES)
    assert torch.equal(logits_of(ours, [[2, 7, 9]]), said[:, -3:])


@torch.inference_mode()
def logits_of(model: Any, ids: list[list[int]]) -> Tensor:
    return model(input_ids=torch.tensor(ids)).logits


@pytest.mark.parametrize("name", ["prompt", "prefix", "p"])
def test_texts_of_any_lengths_are_gone_on_with_as_each_is_alone(
    decoder: Checkpoint, ends: dict[str, Checkpoint], name: str
):
    """Stock peft counts a padded text's positions from its padding: together, it writes something else."""
    stock, ours = over_stock(decoder, ends[name]), load(ends[name], "tokens")
    prompts = [torch.tensor(ids) for ids in ([2, 7, 9, 11, 30, 4], [2, 8], [2, 40, 41, 9], [2, 9])]
    tokenizer = load_tokenizer(decoder.folder)
    wanted: list[list[int]] = []
    for prompt in prompts:
        ids = prompt[None]
        with torch.inference_mode():
            for _ in range(6):  # the whole row each time: no cache, no padding
                ids = torch.cat([ids, stock(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)[None]], dim=1)
        new = ids[0, len(prompt) :].tolist()
        wanted.append(new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new)
    assert continued(ours, prompts, tokenizer, 6) == wanted


@pytest.mark.parametrize("name", FEW)
def test_a_classifier_s_prompt_and_head_move_and_stock_peft_says_the_same(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, name: str
):
    end = trained(tmp_path, start, data, **TUNINGS[name])
    tensors = load_file(end.folder / WEIGHTS)
    assert {*tensors} == {"prompt_embeddings", "base_model.classifier.weight", "base_model.classifier.bias"}
    assert len(tensors["prompt_embeddings"]) == PLACES
    stock = AutoModelForSequenceClassification.from_pretrained(start.folder)
    torch.nn.init.normal_(stock.classifier.weight)  # the adapter brings its own
    assert torch.equal(logits(load(end, "labeled")), logits(peft.PeftModel.from_pretrained(stock, end.folder)))
    assert (end.form, end.base is not None) == ("adapter", True)
    with pytest.raises(ModelError, match="has no merged form"):
        merged(load(end, "labeled"))
    assert limits_of(end.folder).positions == (limits_of(start.folder).positions or 0) - PLACES


@pytest.mark.parametrize("name", ["prompt", "prefix", "p"])
def test_the_publish_gate_compares_a_language_model_under_a_prompt_by_its_own_tokens(
    texts: PreparedDataset, ends: dict[str, Checkpoint], name: str
):
    base = ends[name].base
    assert base
    assert adapter_version_difference(ends[name].folder, base, Candidate.of(ends[name]), texts) == 0.0


def job(start: Checkpoint, data: PreparedDataset, tuning: dict[str, Any], **compute: Any) -> TrainJob:
    optimizer = AdamW(learning_rate=1e-2, epochs=3, batch_size=15)
    phase = Phase.model_validate(
        {"name": "tune", "dataset": "d", "objective": {"kind": "classification"}, "tuning": tuning, "dropout": 0.0}
    ).model_copy(update={"optimizer": optimizer})
    asked = Compute(**{"workers": 0, "threads": 1, **compute})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=3, compute=asked)


@pytest.mark.parametrize("name", FEW)
def test_the_split_of_a_batch_changes_nothing_and_a_stop_neither(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, name: str
):
    whole = train(job(start, data, TUNINGS[name]), Workspace(tmp_path / "whole"))
    split = train(job(start, data, TUNINGS[name], micro_batch_size=4), Workspace(tmp_path / "split"))
    assert losses(split) == pytest.approx(losses(whole), rel=1e-5)
    work = Workspace(tmp_path / "stopped")
    with stopped_at(4):
        train(job(start, data, TUNINGS[name]), work)
    resumed = train(job(start, data, TUNINGS[name]), work)
    assert resumed.facts["resumed_from_step"] == 4
    assert (resumed.weights, losses(resumed)) == (whole.weights, losses(whole))


def test_a_prompt_begins_as_words(start: Checkpoint):
    def begun(**settings: Any) -> Tensor:
        torch.manual_seed(5)
        model: Any = PromptTuning(virtual_tokens=5, **settings).prepare(
            load(start, "labeled"), "labeled", ["classifier"]
        )
        assert [n for n, p in model.named_parameters() if p.requires_grad] == [
            "base_model.classifier.modules_to_save.default.weight",
            "base_model.classifier.modules_to_save.default.bias",
            "prompt_encoder.default.embedding.weight",
        ]
        return model.prompt_encoder["default"].embedding.weight.detach()

    words = load_file(start.folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    ids = load_tokenizer(start.folder)("screen stays", add_special_tokens=False)["input_ids"]
    assert torch.equal(begun(init_text="screen stays"), words[(ids * 5)[:5]])
    drawn = begun()
    assert all(any(torch.equal(row, word) for word in words) for row in drawn)
    assert torch.equal(drawn, begun())
    assert not any(torch.equal(row, word) for row in begun(init="random") for word in words)
    with pytest.raises(RecipeError, match="makes no token of"):
        begun(init_text="\u200b")
    for wrong in ({"init_text": " "}, {"init_text": "a", "init": "random"}, {"virtual_tokens": 0}):
        with pytest.raises(ValueError, match=r"init_text|virtual_tokens"):
            PromptTuning.model_validate(wrong)


def test_what_p_tuning_leaves_is_a_prompt_that_prompt_tuning_goes_on_with(
    ends: dict[str, Checkpoint], texts: PreparedDataset, tmp_path: Path
):
    on = trained(tmp_path, ends["p"], texts, **TUNINGS["prompt"])
    assert on.base == ends["p"].base
    ours = load(ends["p"], "tokens")
    split = open_split(split_file(texts.path, "train"), ())
    with torch.inference_mode():
        loss = CausalLM().loss(ours, split.batch(range(len(split)), Collator.of(ours)))
    before = float(loss.total) / int(loss.count)
    assert losses(on)[0] == pytest.approx(before, abs=0.1)  # of other rows: half of them
    refused = {
        "encoder is not saved": (ends["p"], TUNINGS["p"]),
        "use prefix_tuning without projection": (ends["prefix"], TUNINGS["projected"]),
        "adapter of PREFIX_TUNING, which 'lora' cannot": (ends["prefix"], {"keep": "adapter"}),
        "has no merged form": (ends["prompt"], {"kind": "full"}),
        "has prompt_embeddings of shape": (ends["prompt"], {**TUNINGS["prompt"], "virtual_tokens": 9}),
    }
    for words, (from_, tuning) in refused.items():
        with pytest.raises((RecipeError, ModelError), match=words):
            trained(tmp_path, from_, texts, **tuning)


def test_a_head_that_looks_for_the_last_token_is_refused_and_not_silently_wrong(data: PreparedDataset):
    """A decoder's classifier is given no ids under a prompt: stock peft reads padding. Under a prefix it has them."""
    split = open_split(split_file(data.path, "train"), ("billing", "bug", "sales"))
    sizes: dict[str, Any] = dict(vocab_size=4000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = LlamaConfig(**sizes, intermediate_size=16, num_labels=3, pad_token_id=0)
    for method, wrong in ((PTuning(virtual_tokens=2), True), (PromptTuning(virtual_tokens=2), True)):
        torch.manual_seed(0)
        model: Any = method.prepare(Llama(config).eval(), "labeled", ["score"])
        rows = split.lengths.argsort()[[0, -1]]
        model.eval()
        with torch.inference_mode():
            together = model(**split.batch(rows, Collator.of(model)).inputs).logits[0]
            alone = model(**split.batch(rows[:1], Collator.of(model)).inputs).logits[0]
        assert bool((together - alone).abs().max() > 1e-4) == wrong
        with pytest.raises(ModelError, match="does not know where the row ends; use prefix_tuning"):
            check_prompted(model, split, Collator.of(model))
    prefix = peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)
    check_prompted(peft.get_peft_model(Llama(config).eval(), prefix).eval(), split, Collator.of(model))


def test_the_answers_of_taggers_and_readers_are_of_the_row_s_own_tokens():
    """Those of stock peft begin with the prompt's places."""
    sizes: dict[str, Any] = dict(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    config = BertConfig(**sizes, intermediate_size=16, num_labels=2)
    ids, mask = torch.randint(4, 40, (2, 6)), torch.ones(2, 6, dtype=torch.long)
    made = (
        (BertForTokenClassification, "TOKEN_CLS", ["logits"]),
        (
            BertForQuestionAnswering,
            "QUESTION_ANS",
            ["start_logits", "end_logits"],
        ),
    )
    for model_class, task, names in made:
        stock: Any = peft.get_peft_model(
            model_class(config), peft.PromptTuningConfig(task_type=task, num_virtual_tokens=PLACES)
        ).eval()
        with torch.inference_mode():
            theirs = stock(input_ids=ids, attention_mask=mask)
            ours = answering_for_its_input(stock)(input_ids=ids, attention_mask=mask)
        for name in names:
            assert theirs[name].shape[1] == 6 + PLACES
            assert torch.equal(ours[name], theirs[name][:, PLACES:])
