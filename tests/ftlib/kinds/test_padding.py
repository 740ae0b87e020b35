"""No answer depends on what a row is filled up with: every kind and family against stock transformers, row by row."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoModelForSequenceClassification

from ftlib.config import BatchKind
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.inputs import TEXT
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.data.rows import Piece
from ftlib.errors import IntegrityError, ModelError
from ftlib.evaluation import publish_check
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.padding import check_padding, settle
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.limits import limits_of, load_config
from ftlib.models.reference import ModelRef
from ftlib.published.loaded import _logits
from ftlib.stages.base import BaseJob, base
from ftlib.testing import tiny_lm_tokenizer
from ftlib.workspace import Workspace

TOKENS = len(tiny_lm_tokenizer())
END = 3
LABELS = ("a", "b", "c")
ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BOTH_SIDES = {
    **{f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 4))},
    **{"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "decoder_start_token_id": END},
}
SEQUENCE: tuple[BatchKind, ...] = ("labeled", "multi_labeled", "scored")
TOKEN_WISE: tuple[BatchKind, ...] = ("tagged", "spans")
LANGUAGE: tuple[BatchKind, ...] = ("tokens", "completions")


@dataclasses.dataclass(frozen=True)
class Family:
    config: Any
    fields: dict[str, Any]
    pad: int
    """What must be published."""
    kinds: tuple[BatchKind, ...]


FAMILIES = {
    "bert": Family(transformers.BertConfig, {**ENCODER, "pad_token_id": 4}, 4, (*SEQUENCE, *TOKEN_WISE)),
    "roberta": Family(transformers.RobertaConfig, {**ENCODER, "pad_token_id": 1}, 1, (*SEQUENCE, *TOKEN_WISE)),
    "distilbert": Family(
        transformers.DistilBertConfig,
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 4},
        4,
        (*SEQUENCE, *TOKEN_WISE),
    ),
    "albert": Family(
        transformers.AlbertConfig, {**ENCODER, "embedding_size": 16, "pad_token_id": 4}, 4, (*SEQUENCE, *TOKEN_WISE)
    ),
    "deberta-v2": Family(
        transformers.DebertaV2Config,
        {**ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
        0,
        (*SEQUENCE, *TOKEN_WISE),
    ),
    "mpnet": Family(transformers.MPNetConfig, {**ENCODER, "pad_token_id": 1}, 1, (*SEQUENCE, *TOKEN_WISE)),
    "gpt2": Family(
        transformers.GPT2Config,
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": END, "eos_token_id": END},
        END,
        (*SEQUENCE, *LANGUAGE, *TOKEN_WISE),
    ),
    "llama": Family(
        transformers.LlamaConfig,
        {**ENCODER, "pad_token_id": 4, "eos_token_id": END},
        4,
        (*SEQUENCE, *LANGUAGE, *TOKEN_WISE),
    ),
    "llama-3": Family(transformers.LlamaConfig, {**ENCODER, "eos_token_id": [END, 2]}, END, SEQUENCE),
    "qwen2": Family(
        transformers.Qwen2Config, {**ENCODER, "num_key_value_heads": 2, "eos_token_id": END}, END, (*SEQUENCE, "tokens")
    ),
    "qwen3": Family(
        transformers.Qwen3Config,
        {**ENCODER, "num_key_value_heads": 2, "head_dim": 8, "eos_token_id": END},
        END,
        (*SEQUENCE, "tokens"),
    ),
    "t5": Family(
        transformers.T5Config,
        {"d_model": 32, "num_layers": 1, "num_heads": 4, "d_ff": 64, "d_kv": 8, "pad_token_id": 4, "eos_token_id": END}
        | {"decoder_start_token_id": 4},
        4,
        (*SEQUENCE, *TOKEN_WISE),
    ),
    "bart": Family(
        transformers.BartConfig, {**BOTH_SIDES, "pad_token_id": 1, "eos_token_id": END}, 1, (*SEQUENCE, "spans")
    ),
}


def folder_of(family: Family, path: Path, kind: BatchKind) -> Path:
    """Write a model as its makers do, with a tokenizer that knows no padding: all there is to go by is the config."""
    config = family.config(vocab_size=TOKENS, **family.fields)
    torch.manual_seed(0)
    auto = KINDS[kind].head().auto_class if KINDS[kind].language else AutoModel
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights are so small that all rows have one answer
            parameter += 0.1 * torch.randn(parameter.shape)
    model.save_pretrained(path)
    tokenizer: Any = tiny_lm_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(path)
    return path


def uneven(kind: BatchKind) -> Iterator[PreparedRow]:
    """Rows of 2 to 33 tokens; some end in the end token twice over, as none may have of an encoder-decoder."""
    draw = np.random.default_rng(7)
    for i in range(9):
        ids = [int(id) for id in draw.integers(5, TOKENS, size=1 + (11 * i) % 33)] + [END]
        target: Any = {
            "labeled": LABELS[i % 3],
            "multi_labeled": LABELS[: i % 4],
            "scored": i / 7,
            "tagged": ("a",) * len(ids),
            "completions": "what follows",
            "tokens": None,
            "spans": {
                **{"start": 0, "end": 1, "answers": ["x"], "spelt": ["x"] * len(ids), "optional": True},
                "segments": [0] * (len(ids) // 2) + [1] * (len(ids) - len(ids) // 2),
            },
        }[kind]
        yield PreparedRow(f"r{i}", {"input_ids": ids}, target, supervised=len(ids) - 1 if KINDS[kind].language else 1)


def prepared(folder: Path, kind: BatchKind) -> PreparedDataset:
    folder.mkdir(parents=True)
    rows = list(uneven(kind))
    for split in SPLITS:
        write_split(split_file(folder, split), kind, rows)
    facts = SplitFacts(rows=len(rows), tokens=0, supervised=0, truncated=0, longest=0)
    return PreparedDataset(
        uri=str(folder), content="c", kind=kind, labels=LABELS, splits=dict.fromkeys(SPLITS, facts),
        ledger=Ledger(rows_in=0, kept=0), leaked=0, tokenizer="t",
    )  # fmt: skip


def started(family: Family, path: Path, kind: BatchKind) -> Checkpoint:
    """Return the base model, whose fresh head says more than nearly nothing."""
    model = find_model(ModelRef(path=str(folder_of(family, path / "model", kind))))
    labels = LABELS if kind in ("labeled", "multi_labeled", "tagged") else ()
    start = base(BaseJob(model=model, kind=kind, labels=labels, seed=1), Workspace(path / "work"))
    loaded = load_model(start.path / "model", kind)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter *= 3.0
    loaded.save_pretrained(start.path / "model")  # type: ignore[operator]
    return start


def alone(model: Any, kind: BatchKind, split: PreparedSplit) -> list[torch.Tensor]:
    """Ask stock transformers one row at a time, without any padding."""
    found = []
    for row in range(len(split)):
        inputs = {"input_ids": torch.tensor([split.tokens(row).tolist()])}
        if kind == "spans" and "token_type_ids" in inspect.signature(model.forward).parameters:
            inputs["token_type_ids"] = torch.tensor(split.targets.segments([row]))  # type: ignore[union-attr]
        with torch.no_grad():
            said = model(**inputs)
        found.append(KINDS[kind].head().logits(said)[0].double())
    return found


def pairs() -> Iterator[Any]:
    """Every family with every kind that it has; a few of them at once, all of them before a release."""
    for name, family in FAMILIES.items():
        for kind in family.kinds:
            soon = kind == "labeled" or (name, kind) in EACH_KIND
            yield pytest.param(name, kind, marks=[] if soon else [pytest.mark.slow])


EACH_KIND = {
    *(("gpt2", kind) for kind in (*SEQUENCE, "tokens")),
    *(("llama", "completions"), ("bert", "tagged"), ("bert", "spans"), ("t5", "spans")),
}


@pytest.mark.parametrize(("name", "kind"), [*pairs()])
def test_a_padded_batch_is_answered_as_stock_transformers_answers_each_row(
    name: str, kind: BatchKind, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    start, data = started(family, tmp_path / kind, kind), prepared(tmp_path / kind / "data", kind)
    folder = start.path / "model"
    assert load_config(folder).pad_token_id == family.pad
    stock = KINDS[kind].head().auto_class.from_pretrained(folder).eval()
    split = open_split(split_file(data.path, "test"), start.labels)
    expected = alone(stock, kind, split)
    spread = max(float(row.abs().max()) for row in expected)

    table: Any = predict_split(load_model(folder, kind), split, start.labels, tiny_lm_tokenizer)
    if kind == "labeled":
        np.testing.assert_allclose(table.probabilities, torch.stack(expected).softmax(-1), atol=1e-4)
    if kind == "multi_labeled":
        np.testing.assert_allclose(table.probabilities, torch.stack(expected).sigmoid(), atol=1e-4)
    if kind == "scored":
        np.testing.assert_allclose(table.predicted, torch.stack(expected)[:, 0], atol=1e-4 * max(1, spread))
    if KINDS[kind].language:
        for row, logits in enumerate(expected):
            tokens = torch.tensor(split.tokens(row)).long()
            nll = -logits.log_softmax(-1)[:-1].gather(1, tokens[1:, None]).sum()
            assert table.nll[row] == pytest.approx(float(nll), rel=1e-4, abs=1e-4)
    if kind not in LANGUAGE:
        pieces = [Piece(row.inputs, row.target) for row in uneven(kind)]  # type: ignore[arg-type]
        asked = load_model(folder, kind)
        said = _logits(asked, Collator.of(asked), kind, TEXT, pieces, 5)
        for ours, theirs in zip(said, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4 * max(1, spread), rtol=1e-4)
    difference = publish_check._compared("model", lambda: stock, Candidate.of(start), data, 1e-5)
    assert difference <= 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "roberta"])
def test_the_gate_sees_rows_filled_up_with_another_token(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both models in one wrong batch agree with each other: only rows alone show it."""
    start, data = started(FAMILIES[name], tmp_path, "labeled"), prepared(tmp_path / "data", "labeled")
    of = Collator.of
    monkeypatch.setattr(Collator, "of", lambda *given: dataclasses.replace(of(*given), pad_token_id=0))
    model = load_model(start.path / "model", "labeled")
    if name == "roberta":  # what it is filled up with is masked, and nothing else
        publish_check._compared("model", lambda: model, Candidate.of(start), data, 1e-5)
        return
    with pytest.raises(IntegrityError, match="an answer must not depend on the padding"):
        publish_check._compared("model", lambda: model, Candidate.of(start), data, 1e-5)


@pytest.mark.parametrize(
    ("config", "pad", "end", "expected"),
    [
        ({"pad_token_id": 7, "eos_token_id": 3}, 5, 4, 7),
        ({"eos_token_id": 3}, 5, 4, 5),
        ({"eos_token_id": 3}, None, 4, 3),
        ({"eos_token_id": [30, 8]}, None, 4, 8),
        ({"eos_token_id": None}, None, 4, 4),
        ({"pad_token_id": -1, "eos_token_id": 3}, 5, 4, 5),
        ({"pad_token_id": 20, "eos_token_id": 3}, 20, None, 3),
        ({"eos_token_id": None}, None, None, None),
    ],
)
def test_a_model_gets_a_token_to_fill_rows_up_with(
    config: dict[str, Any], pad: int | None, end: int | None, expected: int | None
) -> None:
    tokenizer = SimpleNamespace(pad_token_id=pad, eos_token_id=end)
    made = transformers.LlamaConfig(vocab_size=20, **config)
    if expected is None:
        settle(made, Path("m"), "tokens", lambda: tokenizer)  # nothing reads a language model's padding
        assert made.pad_token_id is None
        with pytest.raises(
            ModelError, match=r"neither config\.json nor the tokenizer has a token to fill rows up with"
        ):
            settle(made, Path("m"), "labeled", lambda: tokenizer)
        return
    settle(made, Path("m"), "labeled", lambda: tokenizer)
    assert made.pad_token_id == expected


def test_an_encoder_decoder_is_not_filled_up_with_the_token_it_reads_at() -> None:
    config = transformers.T5Config(vocab_size=20, pad_token_id=1, eos_token_id=1)
    settle(config, Path("m"), "labeled", lambda: SimpleNamespace(pad_token_id=6, eos_token_id=1))
    assert config.pad_token_id == 6
    config.pad_token_id = None
    with pytest.raises(ModelError, match="has a token but its end token, which it reads at, to fill rows up with"):
        settle(config, Path("m"), "labeled", lambda: SimpleNamespace(pad_token_id=1, eos_token_id=1))


def test_a_nested_config_names_it_in_both_places() -> None:
    text = {**ENCODER, "vocab_size": 20, "pad_token_id": None, "eos_token_id": 3}
    config = transformers.Gemma3Config(text_config=text)
    settle(config, Path("m"), "labeled", lambda: SimpleNamespace(pad_token_id=None, eos_token_id=None))
    assert config.text_config.pad_token_id == config.pad_token_id == 3


@pytest.mark.parametrize("pad", [[0], "0", True, 1.5])
def test_a_padding_id_that_is_no_number_is_said(pad: object, tmp_path: Path) -> None:
    transformers.LlamaConfig(vocab_size=20, **ENCODER).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text().replace('"pad_token_id": null', f'"pad_token_id": {_json(pad)}')
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config.json cannot be read by transformers: .*pad_token_id"):
        load_config(tmp_path)


def _json(value: object) -> str:
    return {str: f'"{value}"', bool: "true"}.get(type(value), str(value))


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (transformers.XLNetConfig, {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
        (transformers.FNetConfig, {**ENCODER, "max_position_embeddings": 64}),
    ],
)
def test_a_model_that_reads_its_padding_is_refused_by_name(config: Any, fields: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config(vocab_size=TOKENS, **fields)).eval()
    with pytest.raises(ModelError, match=rf"^mine \({type(model).__name__}\) answers a text otherwise in a padded"):
        check_padding(model, "labeled", tiny_lm_tokenizer(), "mine", None)


def test_a_model_that_cannot_answer_is_one_line() -> None:
    """BART reads at an end token that this tokenizer does not add."""
    config = transformers.BartConfig(vocab_size=TOKENS, **BOTH_SIDES, pad_token_id=1, eos_token_id=5)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with pytest.raises(ModelError, match=r"^mine \(BartForSeq.*\) cannot answer a text with its own tokenizer: "):
        check_padding(model, "labeled", tiny_lm_tokenizer(), "mine", None)


@pytest.mark.parametrize("name", ["bert", "roberta", "mpnet", "gpt2", "bart"])
def test_the_longest_row_is_the_longest_that_stock_transformers_reads(name: str, tmp_path: Path) -> None:
    family, length = FAMILIES[name], "n_positions" if name == "gpt2" else "max_position_embeddings"
    model = AutoModel.from_config(family.config(vocab_size=TOKENS, **family.fields, **{length: 34})).eval()
    model.save_pretrained(tmp_path)

    def reads(tokens: int) -> bool:
        try:
            model(input_ids=torch.full((1, tokens), 9))
        except (IndexError, RuntimeError):
            return False
        return True

    assert limits_of(tmp_path).positions == max(tokens for tokens in range(28, 38) if reads(tokens))


def test_a_token_beyond_the_embedding_is_said() -> None:
    collate = Collator(0, tokens=20, arguments=frozenset({"input_ids"}), device=torch.device("cpu"))
    with pytest.raises(ModelError, match="a row holds the token 20, and the model's embedding ends at 19"):
        collate({"input_ids": [[3, 4], [5, 20]]})


def test_rows_are_filled_up_on_either_side(tmp_path: Path) -> None:
    collate = Collator(7, tokens=None, arguments=frozenset({"input_ids", "token_type_ids"}), device=torch.device("cpu"))
    inputs: dict[str, Sequence[Sequence[int]]] = {"input_ids": [[1], [2, 3]], "token_type_ids": [[1], [0, 1]]}
    assert {name: tensor.tolist() for name, tensor in collate(inputs).items()} == {
        "input_ids": [[1, 7], [2, 3]], "token_type_ids": [[1, 0], [0, 1]], "attention_mask": [[1, 0], [1, 1]],
    }  # fmt: skip
    assert collate(inputs, left=True)["input_ids"].tolist() == [[7, 1], [2, 3]]
