"""Where a head reads one place, the last layer is computed for it alone: to the same bits, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PretrainedConfig,
    RobertaConfig,
)

from ftlib.data.prepared import split_file
from ftlib.evaluation import forward_pass
from ftlib.evaluation.first_place import FirstPlace
from ftlib.evaluation.forward_pass import batches_of, predict_split
from ftlib.evaluation.sweep import Sweep
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.testing import LABELS, tiny_prepared, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute

ROWS = [{**row, "text": f"{row['text']} " * (1 + i % 4)} for i, row in enumerate(tiny_rows(64))]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
DISTILBERT = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
FAMILIES = [
    (BertConfig, BERT, "bert.encoder.layer.1.intermediate"),
    (RobertaConfig, BERT, "roberta.encoder.layer.1.intermediate"),
    (ElectraConfig, BERT | {"embedding_size": 16}, "electra.encoder.layer.1.intermediate"),
    (DistilBertConfig, DISTILBERT, "distilbert.transformer.layer.1.ffn.lin1"),
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with forward_pass.resources(Compute(threads=1)):
        yield


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    data = tiny_prepared(tmp_path_factory.mktemp("data"), {"test": ROWS})
    return open_split(split_file(data.path, "test"), LABELS)


def classifier(config: type[PretrainedConfig], sizes: dict[str, int]) -> Any:
    torch.manual_seed(0)
    made = config(vocab_size=300, num_labels=len(LABELS), pad_token_id=0, **sizes)
    return AutoModelForSequenceClassification.from_config(made).eval()


def asked_in_turns(model: nn.Module, split: PreparedSplit, turns: int = 3) -> tuple[list[bytes], list[bytes]]:
    """Ask a model whose weights all change from turn to turn, in a sweep and by itself."""
    sweep, found, expected = Sweep(split, room=1 << 30), list[bytes](), list[bytes]()
    for turn in range(turns):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(turn))
        batches = sweep.batches(model, lambda name, turn=turn: (name, turn), lambda _: None)
        found.append(predict_split(model, split, LABELS, tiny_tokenizer, batches=batches).to_parquet())
        expected.append(predict_split(model, split, LABELS, tiny_tokenizer).to_parquet())
    assert len(set(expected)) == turns
    return found, expected


@pytest.mark.parametrize(("config", "sizes", "part"), FAMILIES, ids=lambda value: getattr(value, "model_type", ""))
def test_who_is_asked_later_leaves_out_what_the_head_does_not_read(
    split: PreparedSplit, config: type[PretrainedConfig], sizes: dict[str, int], part: str
) -> None:
    model, places = classifier(config, sizes), list[int]()
    model.get_submodule(part).register_forward_pre_hook(lambda _, given: places.append(given[0].shape[1]))
    found, expected = asked_in_turns(model, split)
    assert found == expected
    widths = [int(split.sizes[rows].max()) for rows in batches_of(split)]
    assert len(widths) == 2
    first = [widths[0], widths[0], widths[0], 1, widths[1], 1]  # twice one row; each batch in full, and shown
    assert places == [*first, *widths, 1, 1, *widths, 1, 1, *widths]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_head_that_reads_all_places_is_found_whatever_its_weights(split: PreparedSplit, weight: float) -> None:
    model = classifier(BertConfig, BERT)
    nn.init.constant_(model.classifier.weight, weight)
    ids = torch.arange(1, 9)[None]
    ask: Callable[[], Tensor] = lambda: model(input_ids=ids).logits  # noqa: E731
    assert FirstPlace.of(model.bert.encoder.layer, ask) is not None
    model.bert.pooler = Mean()
    assert FirstPlace.of(model.bert.encoder.layer, ask) is None
    assert FirstPlace.of(model.bert.encoder.layer[:1], ask) is None


class Mean(nn.Module):
    """A pooler of all places."""

    def forward(self, states: Tensor) -> Tensor:
        return states.mean(1)


@pytest.mark.parametrize("refuses", [False, True])
def test_sums_in_another_order_or_an_error_leave_the_batch_as_it_is(split: PreparedSplit, refuses: bool) -> None:
    model = classifier(BertConfig, BERT)

    def otherwise(_: object, given: tuple[Tensor, ...], said: Tensor) -> Tensor:
        if given[0].shape[1] > 1:
            return said
        if refuses:
            raise IndexError("no such place")
        return said * (1 + 1e-6)

    model.bert.encoder.layer[1].intermediate.register_forward_hook(otherwise)
    found, expected = asked_in_turns(model, split)
    assert found == expected
