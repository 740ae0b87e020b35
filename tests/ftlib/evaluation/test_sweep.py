"""What candidates of one sweep have in common is computed once, and no number depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BertConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import Interrupted, ModelError
from ftlib.evaluation import forward_pass, predictor
from ftlib.evaluation.forward_pass import batches_of, predict_split
from ftlib.evaluation.inference import infer_here
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.evaluation.sweep import Chain, Sweep
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.writing import save_adapter
from ftlib.merging.candidate_weights import mix_into, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.contents import Contents
from ftlib.merging.interpolation import Dare, ModelStock, Slerp, Soup, TaskArithmetic, Ties, WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.models.adapter import adapter_digest, base_of
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.progress import Progress, listen
from ftlib.testing import LABELS, tiny_checkpoint, tiny_image_classifier, tiny_prepared, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute

ROWS = [{**row, "text": f"{row['text']} " * (1 + i % 4)} for i, row in enumerate(tiny_rows(70))]
FIRST = "bert.encoder.layer.0."
"""The first block of `tiny_classifier`, which has two."""
LOOKED = 2 + 2
"""Blocks that run on one row: to find them, and to see that the head reads one place. Then the last runs once more."""


def head(name: str) -> bool:
    return name.startswith("classifier.")


def upper(name: str) -> bool:
    return head(name) or name.startswith(("bert.encoder.layer.1.", "bert.pooler."))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the plans below: sums of other threads are added up in another order."""
    with forward_pass.resources(Compute(threads=1)):
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"test": ROWS})


def step(folder: Path, start: Checkpoint, moved: Callable[[str], bool], seed: int = 1) -> Checkpoint:
    return tiny_checkpoint(folder, start.labels, phase=f"tune{seed}", start=start, seed=seed, moved=moved)


def plan(
    folder: Path, data: PreparedDataset, candidates: Sequence[Candidate], *, megabytes: int = 256
) -> PredictionPlan:
    return PredictionPlan(
        name="home",
        candidates=tuple(candidates),
        files=tuple(str(folder / f"{i}.parquet") for i in range(len(candidates))),
        data=data,
        split="test",
        max_new_tokens=0,
        compute=Compute(workers=0, threads=1, evaluation_memory_mb=megabytes),
    )


def tables(
    folder: Path, data: PreparedDataset, candidates: Sequence[Candidate], *, megabytes: int = 256
) -> list[bytes]:
    infer_here(asked := plan(folder, data, candidates, megabytes=megabytes))
    return [Path(file).read_bytes() for file in asked.files]


def alone(folder: Path, data: PreparedDataset, candidate: Candidate) -> bytes:
    """Return the table of the folder that would be published, loaded and asked by itself."""
    write_candidate(candidate, folder)
    split = open_split(split_file(data.path, "test"), candidate.end.labels)
    model = load_model(folder, data.kind)
    return predict_split(model, split, candidate.end.labels, tiny_tokenizer).by_example().to_parquet()


@pytest.fixture
def blocks_run(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Count how often each block of a BERT computes, of however many models."""
    from transformers.models.bert.modeling_bert import BertLayer

    runs: dict[str, int] = {"rows": 0}
    real = BertLayer.forward

    def forward(self: Any, hidden_states: Tensor, *args: Any, **more: Any) -> Any:
        runs["rows"] += len(hidden_states)
        return real(self, hidden_states, *args, **more)

    monkeypatch.setattr(BertLayer, "forward", forward)
    return runs


@pytest.mark.parametrize(
    ("moved", "blocks"), [(head, 0), (upper, 1), (lambda _: True, 2)], ids=["head", "upper", "all"]
)
def test_a_sweep_says_what_each_candidate_says_alone_and_runs_common_blocks_once(
    start: Checkpoint,
    data: PreparedDataset,
    tmp_path: Path,
    blocks_run: dict[str, int],
    moved: Callable[[str], bool],
    blocks: int,
) -> None:
    points = WiseFT(alphas=(0.3, 0.6)).points(Ends(start, step(tmp_path / "end", start, moved)))
    expected = [alone(tmp_path / point.name, data, point) for point in points]
    blocks_run["rows"] = 0
    found = tables(tmp_path, data, points)
    assert found == expected
    assert len(set(found)) == len(points) == 4
    once, again = (2 - blocks) * len(ROWS), len(points) * blocks * len(ROWS)
    shown = 0 if blocks == 2 else blocks * forward_pass.ROWS  # on one batch, that the rest can go on from what is kept
    assert blocks_run["rows"] == once + again + shown + len(ROWS) + LOOKED
    blocks_run["rows"] = 0
    assert tables(tmp_path / "none", data, points, megabytes=0) == expected
    assert blocks_run["rows"] == len(points) * 2 * len(ROWS)


def test_base_probe_and_tune_share_what_they_share(
    start: Checkpoint,
    data: PreparedDataset,
    tmp_path: Path,
    blocks_run: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[object] = []
    real = predictor.load
    monkeypatch.setattr(predictor, "load", lambda *args: loaded.append(args) or real(*args))
    probe = step(tmp_path / "probe", start, head)
    tune = step(tmp_path / "tune", probe, lambda _: True, seed=2)
    everyone = [*map(Candidate.of, (start, probe, tune)), Candidate.between(probe, tune, 0.5)]
    expected = [alone(tmp_path / point.name, data, point) for point in everyone]
    blocks_run["rows"] = 0
    assert tables(tmp_path, data, everyone) == expected
    assert blocks_run["rows"] < 3.5 * 2 * len(ROWS) + len(ROWS) + LOOKED
    assert len(loaded) == 1


@pytest.mark.parametrize(
    "way",
    [
        Soup(),
        Dare(),
        Slerp(alphas=(0.3, 0.6)),
        *(pytest.param(way, marks=pytest.mark.slow) for way in (TaskArithmetic(), Ties(), ModelStock())),
    ],
    ids=lambda way: way.kind,
)
def test_whatever_the_method_frozen_layers_are_common(
    start: Checkpoint, siblings: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path, way: Any
) -> None:
    points = way.points(Ends(start, siblings[0], () if way.kind == "slerp" else siblings[1:]))
    contents = Contents()
    assert len({contents.of(point, f"{FIRST}attention.self.query.weight") for point in points}) == 1
    assert len({contents.of(point, "classifier.weight") for point in points}) == len(points)
    assert tables(tmp_path, data, points) == [alone(tmp_path / point.name, data, point) for point in points]


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory, start: Checkpoint) -> tuple[Checkpoint, ...]:
    folder = tmp_path_factory.mktemp("siblings")
    return tuple(step(folder / str(seed), start, upper, seed) for seed in (1, 2, 3))


def test_what_does_not_fit_is_computed_again(
    start: Checkpoint, siblings: tuple[Checkpoint, ...], data: PreparedDataset, blocks_run: dict[str, int]
) -> None:
    split = open_split(split_file(data.path, "test"), LABELS)
    model, contents = load_model(start.folder, "labeled"), Contents()
    first = split.batch(batches_of(split)[0], Collator.of(model))
    inputs = sum(tensor.nbytes for tensor in (*first.inputs.values(), first.supervised, first.targets))
    said = first.inputs["input_ids"].numel() * 32 * 4
    sweep = Sweep(split, room=inputs + said)
    found = list[bytes]()

    def holds(end: Checkpoint) -> Callable[[str], Any]:
        return lambda name: contents.of(Candidate.of(end), name)

    for end in (start, siblings[0]):
        mix_into(model, Candidate.of(end))
        batches = sweep.batches(model, holds(end), holds(siblings[0]))
        blocks_run["rows"] = 0
        found.append(predict_split(model, split, LABELS, tiny_tokenizer, batches=batches).to_parquet())
    assert blocks_run["rows"] == 32 + 2 * (len(ROWS) - 32)
    assert found == [alone_in_memory(end, split) for end in (start, siblings[0])]


def alone_in_memory(end: Checkpoint, split: PreparedSplit) -> bytes:
    return predict_split(load_model(end.folder, "labeled"), split, LABELS, tiny_tokenizer).to_parquet()


def test_candidates_of_other_shapes_and_labels_are_asked_as_they_are(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    more = tiny_checkpoint(tmp_path / "more", (*LABELS, "else"))
    everyone = [*map(Candidate.of, (start, more, step(tmp_path / "end", start, head)))]
    expected = [alone(tmp_path / f"{i}", data, candidate) for i, candidate in enumerate(everyone)]
    assert tables(tmp_path, data, everyone) == expected


def test_a_sweep_that_is_killed_goes_on_with_the_same_numbers(
    start: Checkpoint, siblings: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path
) -> None:
    points = WiseFT(alphas=(0.3, 0.6)).points(Ends(start, siblings[0]))
    expected = tables(tmp_path / "whole", data, points)

    def kill(sign: Progress) -> None:
        if sign.done > 2.5 * len(ROWS):
            raise Interrupted("stopped on request")

    with pytest.raises(Interrupted), listen(kill):
        tables(tmp_path / "killed", data, points)
    made = sorted((tmp_path / "killed").glob("*.parquet"))
    assert [path.read_bytes() for path in made] == expected[:2]
    assert tables(tmp_path / "killed", data, points) == expected


def test_a_broken_checkpoint_behind_a_sound_one_is_named(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """Weights that are put into a model in memory are looked at as those that are loaded."""
    broken = step(tmp_path / "broken", start, head)
    tensors = load_file(broken.folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][200, 0] = float("nan")  # of a token that no row has
    save_file(tensors, broken.folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'tune1': tensor 'bert.embeddings.word_embeddings.weight' holds NaN or inf"):
        tables(tmp_path, data, [Candidate.of(start), Candidate.of(broken)])


def test_a_language_model_with_tied_words_shares_its_first_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    start = tiny_checkpoint(tmp_path / "start", ())
    tie(start.folder)
    end = step(tmp_path / "end", start, lambda name: "layers.1." in name or "model.norm" in name)
    rows = tiny_prepared(tmp_path / "data", {"test": ROWS}, kind="tokens")
    points = WiseFT(alphas=(0.5,)).points(Ends(start, end))
    expected = [alone(tmp_path / point.name, rows, point) for point in points]
    runs, real = list[int](), LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, *a, **m: runs.append(1) or real(self, *a, **m))
    assert tables(tmp_path, rows, points) == expected
    batches = len(batches_of(open_split(split_file(rows.path, "test"), ())))
    assert len(runs) == batches * (1 + len(points)) + 1 + 2


def tie(folder: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)


def test_lora_in_the_last_layer_alone_shares_the_first(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, blocks_run: dict[str, int]
) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, layers_to_transform=[1], modules_to_save=["classifier"])
    wrapped: Any = peft.get_peft_model(cast(Any, load_model(start.folder, "labeled")), config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    base = base_of(start)
    save_adapter(wrapped, model_in(tmp_path / "end"), start.folder, base)
    weights = adapter_digest(model_in(tmp_path / "end"), base)
    update = {"uri": str(tmp_path / "end"), "form": "adapter", "base": base, "weights": weights}
    points = [
        Candidate.between(start, start.model_copy(update={**update, "parent": start.weights}), a)
        for a in (0.0, 0.5, 1.0)
    ]
    blocks_run["rows"] = 0
    shared = tables(tmp_path / "shared", data, points)
    assert blocks_run["rows"] == (1 + 3) * len(ROWS) + forward_pass.ROWS + len(ROWS) + LOOKED
    assert shared == tables(tmp_path / "alone", data, points, megabytes=0)
    assert len(set(shared)) == 3


@pytest.mark.parametrize("family", ["vit", "resnet", "efficientnet"])
def test_the_chain_of_other_families_ends_before_the_head(tmp_path: Path, family: Any) -> None:
    model = load_model(tiny_image_classifier(tmp_path, family), "labeled_images")
    pixels = torch.rand(2, 3, 32, 32)
    chain = Chain.of(model, lambda: model(pixel_values=pixels))
    assert len(chain.blocks) > 1
    heads = [name for name in model.state_dict() if name.startswith("classifier")]
    assert heads
    assert chain.common(lambda name: None, lambda name: name in heads or None) == len(chain.blocks)
    first = next(iter(model.state_dict()))
    assert chain.common(lambda name: None, lambda name: name == first or None) == 0


class Remembering(nn.Module):
    """Its second block reads what the first has left elsewhere: nobody can go on from what the first says."""

    def __init__(self) -> None:
        super().__init__()
        self.config = BertConfig(vocab_size=300)
        self.words, self.left = nn.Embedding(300, 8), torch.zeros(())
        self.blocks, self.head = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), nn.Linear(8, 3)
        self.blocks[0].register_forward_hook(lambda _, given, said: setattr(self, "left", given[0]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        states = self.words(input_ids)
        states = self.blocks[0](states)
        states = self.blocks[1](states) + self.left
        self.left = torch.zeros(())
        return SequenceClassifierOutput(logits=cast(Any, self.head(states[:, 0])))


def test_who_cannot_go_on_is_asked_in_full(data: PreparedDataset) -> None:
    split, model, found = open_split(split_file(data.path, "test"), LABELS), Remembering(), list[bytes]()
    sweep = Sweep(split, room=1 << 30)
    for turn in range(3):
        with torch.no_grad():
            model.head.weight[0] += turn  # of one class: what all classes gain, softmax takes away
        batches = sweep.batches(
            model, lambda name, turn=turn: name.startswith("head") and turn, lambda name: name.startswith("head") and -1
        )
        found.append(predict_split(model, split, LABELS, tiny_tokenizer, batches=batches).to_parquet())
        assert found[-1] == predict_split(model, split, LABELS, tiny_tokenizer).to_parquet()
    assert len(set(found)) == 3
