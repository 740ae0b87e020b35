"""A new modality is a format that names its columns: rows of numbers, pairs of texts and frozen scores, to the loop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ftlib.config import BatchKind
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.base import FormatBase
from ftlib.data.inputs import TEXT, Inputs, Marks, Numbers, Tokens, row_size
from ftlib.data.prepared import PreparedRow, split_file, split_schema, write_split
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values
from ftlib.data.sources.files import Files
from ftlib.errors import DataError, ModelError
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import config_digest, processor_digest, weights_digest
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.train import TrainJob, train
from ftlib.testing import write_jsonl
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import global_batches
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace

LABELS = ("cold", "warm")


class Readings(FormatBase):
    """The toy: two sensors' three readings, and a label. It has no tokens, so no `max_tokens` either."""

    kind: Literal["readings"] = "readings"
    slices: tuple[str, ...] = ()

    yields: ClassVar[BatchKind] = "labeled"
    keeps_lines: ClassVar[bool] = False
    names_labels: ClassVar[bool] = True
    columns: ClassVar[tuple[str, ...]] = ("readings", "label")

    def example(self, values: Values) -> Example | Dropped:
        label = str(values["label"])
        return Example(json.dumps(values["readings"]), label, target=label)

    def inputs(self, processor: Processor) -> Inputs:
        return (Numbers(name="readings", shape=(2, 3), counts=6),)

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        return [Encoded([Piece({"readings": json.loads(one.text)}, one.target)]) for one in examples]


class ReadingsConfig(PreTrainedConfig):
    model_type = "toy-readings"


class ReadingsModel(PreTrainedModel):
    config_class = ReadingsConfig

    def __init__(self, config: ReadingsConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(6, config.num_labels)
        self.post_init()

    def forward(self, readings: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.classifier(readings.flatten(1)))


AutoConfig.register(ReadingsConfig.model_type, ReadingsConfig)
AutoModel.register(ReadingsConfig, ReadingsModel)
AutoModelForSequenceClassification.register(ReadingsConfig, ReadingsModel)


@pytest.fixture
def start(tmp_path: Path) -> Checkpoint:
    torch.manual_seed(0)
    model = ReadingsModel(ReadingsConfig(id2label=dict(enumerate(LABELS)), label2id={"cold": 0, "warm": 1}))
    model.save_pretrained(tmp_path / "start/model")
    return Checkpoint(
        uri=str(tmp_path / "start"),
        weights=weights_digest(tmp_path / "start/model"),
        parent=None,
        tokenizer=processor_digest(tmp_path / "start/model"),
        config=config_digest(tmp_path / "start/model"),
        phase="base",
        fresh_head=False,
        labels=LABELS,
        parameters=14,
        trained_parameters=0,
    )


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    made = [draw.normal(i % 2, 0.5, (2, 3)).astype(np.float32) for i in range(80)]
    return [{"readings": array.tolist(), "label": LABELS[i % 2]} for i, array in enumerate(made)]


@pytest.fixture
def data(start: Checkpoint, rows: list[dict[str, Any]], tmp_path: Path) -> PreparedDataset:
    work, path = Workspace(tmp_path / "work"), write_jsonl(tmp_path / "rows.jsonl", rows)
    plain = Dataset.model_validate(
        {"source": {"kind": "files", "path": str(path)}, "format": {"kind": "plain_text", "text": "x"}}
    )
    dataset = plain.model_copy(update={"format": Readings()})  # it is in no union yet
    assert isinstance(dataset.source, Files)
    job = IngestJob(name="d", source=dataset.source, files=dataset.source.pin(), limits=dataset.limits)
    folder = start.path / "model"
    model = FoundModel(name="toy", uri=str(folder), weights=start.weights, tokenizer=start.tokenizer)
    return preprocess(
        PreprocessJob(
            name="d", raw=ingest(job, work), dataset=dataset, model=model, tokenizer=start.tokenizer, trains=True
        ),
        work,
    )


def test_rows_of_numbers_go_from_their_file_through_the_real_loop(
    start: Checkpoint, data: PreparedDataset, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert sum(facts.rows for facts in data.splits.values()) == len(rows)
    assert data.splits["train"].longest == 6
    assert data.splits["train"].tokens == 6 * data.splits["train"].rows
    split = open_split(split_file(data.path, "train"), LABELS)
    labels = {json.dumps(row["readings"]): row["label"] for row in rows}
    phase = Phase(
        name="tune",
        dataset="d",
        objective=Classification(),
        tuning=Full(),
        optimizer=AdamW(learning_rate=0.05, epochs=8, batch_size=16),
    )
    compute = Compute(workers=0, threads=1, micro_batch_size=5)
    end = train(
        TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=3, compute=compute), Workspace(tmp_path)
    )
    losses = [record["loss"] for record in curves.read(end.path / curves.FILE) if "loss" in record]
    model: Any = AutoModelForSequenceClassification.from_pretrained(start.path / "model")
    weight, bias = (p.detach().numpy().astype(np.float64) for p in model.parameters())
    first = split.batch(global_batches(split.sizes, 16, 3, 0)[0], Collator.of(model))
    assert first.targets is not None
    assert [*first.inputs] == ["readings"]
    features, gold = first.inputs["readings"].numpy().astype(np.float64).reshape(16, 6), first.targets.numpy()
    assert [labels[json.dumps(array.tolist())] for array in first.inputs["readings"].numpy()] == [
        LABELS[place] for place in gold
    ]
    logits = features @ weight.T + bias
    nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(16), gold]
    assert losses[0] == pytest.approx(nll.mean(), rel=1e-5)
    test = open_split(split_file(data.path, "test"), LABELS)
    found = predict_split(load_model(end.path / "model", "labeled"), test, LABELS, lambda: None)
    assert isinstance(found, LabelOutcomes)
    assert (found.predicted == found.gold).mean() > 0.85


def test_a_row_of_another_shape_is_one_line(tmp_path: Path) -> None:
    inputs: Inputs = (Numbers(name="readings", shape=(2, 3)),)
    row = PreparedRow("r", {"readings": [[1.0, 2.0]]}, "cold")
    with pytest.raises(DataError, match=r"readings has the shape \(1, 2\), its format says \(2, 3\)"):
        write_split(tmp_path / "x.arrow", "labeled", [row], inputs=inputs)
    row = PreparedRow("r", {"readings": [[1.0, 2.0, float("nan")]] * 2}, "cold")
    with pytest.raises(DataError, match="NaN or infinity"):
        write_split(tmp_path / "x.arrow", "labeled", [row], inputs=inputs)


def test_a_model_of_another_modality_is_one_line(start: Checkpoint, tmp_path: Path) -> None:
    write_split(tmp_path / "x.arrow", "labeled", [PreparedRow("r", {"input_ids": [1, 2]}, "cold")])
    collate = Collator.of(load_model(start.path / "model", "labeled"))
    with pytest.raises(ModelError, match="hold the input 'input_ids', and the model takes readings: "):
        open_split(tmp_path / "x.arrow", LABELS).batch([0], collate)


PAIR: Inputs = (
    Tokens(),
    Marks(name="token_type_ids"),
    Tokens(name="input_ids_2", mask="attention_mask_2"),
    Numbers(name="place", shape=(2,), counts=3),
)


def test_pairs_are_padded_each_and_cost_both(tmp_path: Path) -> None:
    cells: list[dict[str, Any]] = [
        {"input_ids": [4, 5, 6], "token_type_ids": [0, 1, 1], "input_ids_2": [8], "place": [0.5, 1.0]},
        {"input_ids": [7], "token_type_ids": [1], "input_ids_2": [9, 3, 2, 1], "place": [2.0, 3.0]},
        {"input_ids": [], "token_type_ids": [], "input_ids_2": [5, 5], "place": [4.0, 5.0]},
    ]
    write_split(tmp_path / "x.arrow", "tokens", [PreparedRow(f"r{i}", row) for i, row in enumerate(cells)], (), PAIR)
    split = open_split(tmp_path / "x.arrow", ())
    assert split.inputs == PAIR
    assert split.sizes.tolist() == [row_size(PAIR, row) for row in cells] == [3 + 1 + 3, 1 + 4 + 3, 0 + 2 + 3]
    assert split.lengths.tolist() == [3, 1, 0]
    names = frozenset({"input_ids", "token_type_ids", "input_ids_2", "place"})
    batch = split.batch([1, 0], Collator(99, None, names, torch.device("cpu")))
    assert {name: tensor.tolist() for name, tensor in batch.inputs.items()} == {
        "input_ids": [[7, 99, 99], [4, 5, 6]],
        "attention_mask": [[1, 0, 0], [1, 1, 1]],
        "token_type_ids": [[1, 0, 0], [0, 1, 1]],
        "input_ids_2": [[9, 3, 2, 1], [8, 99, 99, 99]],
        "attention_mask_2": [[1, 1, 1, 1], [1, 0, 0, 0]],
        "place": [[2.0, 3.0], [0.5, 1.0]],
    }
    unsegmented = split.batch([1, 0], Collator(99, None, names - {"token_type_ids"}, torch.device("cpu")))
    assert {*batch.inputs} - {*unsegmented.inputs} == {"token_type_ids"}
    with pytest.raises(ModelError, match="holds the token 9, and the model's embedding ends at 8"):
        split.batch([1], Collator(0, 9, names, torch.device("cpu")))


def test_a_batch_carries_its_rows_and_the_scores_of_its_split(tmp_path: Path) -> None:
    """What a frozen model said of each row, in columns of the file: one number, one for each token, a vector."""
    path = tmp_path / "x.arrow"
    write_split(path, "tokens", [PreparedRow(f"r{i}", {"input_ids": [3] * (i + 2)}, supervised=1) for i in range(4)])
    table: pa.Table = pa.ipc.open_file(str(path)).read_all()
    each: list[list[float]] = [[float(i)] * (i + 1) for i in range(4)]
    table = table.append_column("score:ref_logp", pa.array([-1.0, -2.0, -3.0, -4.0], pa.float32()))
    table = table.append_column("score:each", pa.array(each, pa.list_(pa.float32())))
    table = table.append_column("score:logits", pa.array([[i, -i] for i in range(4)], pa.list_(pa.float32(), 2)))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table, max_chunksize=3)  # two record batches
    split = open_split(path, ())
    batch = split.batch([3, 1], Collator(0, None, frozenset({"input_ids"}), torch.device("cpu")))
    assert len(batch) == 2
    assert batch.rows is not None
    assert [split.row_ids[int(row)].as_py() for row in batch.rows] == ["r3", "r1"]
    assert batch.columns["ref_logp"].tolist() == [-4.0, -2.0]
    assert batch.columns["each"].tolist() == [[3.0] * 4, [1.0, 1.0, 0.0, 0.0]]
    assert batch.columns["logits"].tolist() == [[3.0, -3.0], [1.0, -1.0]]
    assert {column.dtype for column in batch.columns.values()} == {torch.float32}


def test_the_layout_of_text_says_nothing_new(tmp_path: Path) -> None:
    """Splits of before are read, and written again they have the same bytes."""
    schema = split_schema("labeled", ("domain",))
    assert schema.names == ["row_id", "input_ids", "supervised", "target", "slice:domain"]
    assert schema.metadata == {b"kind": b"labeled"}
    write_split(tmp_path / "x.arrow", "tokens", [])
    split = open_split(tmp_path / "x.arrow", ())
    assert (split.inputs, len(split), split.sizes.tolist()) == (TEXT, 0, [])
