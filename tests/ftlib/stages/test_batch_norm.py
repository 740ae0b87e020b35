"""BatchNorm statistics of a mix against torch's own update_bn, and that what is measured is what is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import update_bn
from transformers import ResNetConfig, ResNetForImageClassification

from ftlib.config import Split
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.inputs import Pixels
from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.errors import DataError, IntegrityError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import Accuracy
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.merging.methods import Average, Lerp, Ties
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import weights_digest
from ftlib.stages.batch_norm import BatchNormJob, batch_norm
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

LABELS = ("cat", "dog", "owl")
PIXELS = Pixels(height=16, width=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
ROWS = 23


def images(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3, 16, 16), np.uint8)


def as_read(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((pixels.astype(np.float32) / 255 - 0.5) / 0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("data")
    splits: dict[Split, SplitFacts] = {}
    for split, count in (("train", ROWS), ("validation", 5), ("test", 11)):
        rows = [
            PreparedRow(f"{split}{i:020}", {"pixel_values": cell}, LABELS[i % 3], supervised=1)
            for i, cell in enumerate(images(count, seed=len(split)))
        ]
        write_split(split_file(folder, split), "labeled_images", rows, inputs=(PIXELS,))
        labels = {label: count // 3 for label in LABELS}
        splits[split] = SplitFacts(rows=count, tokens=count, supervised=count, truncated=0, longest=1, labels=labels)
    return PreparedDataset(
        uri=str(folder),
        content="pixels",
        kind="labeled_images",
        labels=LABELS,
        splits=splits,
        ledger=Ledger(rows_in=39, kept=39),
        leaked=0,
        tokenizer="",
    )


def resnet(folder: Path, phase: str, seed: int, start: Checkpoint | None = None) -> Checkpoint:
    """Write a ResNet that has seen other rows than a neighbour: weights, means and variances of its own."""
    torch.manual_seed(seed)
    if start is None:
        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 2], layer_type="basic")
        config.id2label = dict(enumerate(LABELS))
        config.label2id = {label: i for i, label in enumerate(LABELS)}
        model = ResNetForImageClassification(config)
    else:
        model = ResNetForImageClassification.from_pretrained(start.weights_folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.train()
    for _ in range(2 + seed):
        model(pixel_values=as_read(images(9, seed + 10)) * (1 + seed))
    model.save_pretrained(folder / "model")
    return Checkpoint(
        uri=str(folder),
        weights=weights_digest(folder / "model"),
        parent=start.weights if start else None,
        tokenizer="",
        phase=phase,
        fresh_head=False,
        labels=LABELS,
        parameters=0,
        trained_parameters=0,
    )


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = resnet(folder / "start", "probe", 0)
    return start, *(resnet(folder / f"end{seed}", f"tune{seed}", seed, start) for seed in (1, 2))


def job(data: PreparedDataset, *candidates: Candidate, rows: int = 512) -> BatchNormJob:
    return BatchNormJob(
        candidates=candidates, data=(data,), shares=(1.0,), rows=rows, seed=0, compute=Compute(threads=1)
    )


def line(ends: tuple[Checkpoint, ...], *alphas: float) -> list[Candidate]:
    return [Candidate.between(ends[0], ends[1], alpha) for alpha in alphas]


def tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.weights_folder / "model.safetensors")


def mixed_by_hand(ends: tuple[Checkpoint, ...], alpha: float) -> dict[str, torch.Tensor]:
    a, b = map(tensors, ends[:2])
    return {
        name: ((1 - alpha) * a[name].double() + alpha * b[name].double()).float() if a[name].ndim else b[name]
        for name in a
    }


def updated(state: dict[str, torch.Tensor], folder: Path, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    """Mix by hand, and let torch measure: one batch, dropout there is none."""
    model = ResNetForImageClassification.from_pretrained(folder)
    model.load_state_dict(state)
    update_bn([as_read(pixels)], model)
    return model.state_dict()


@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_a_mix_has_the_statistics_that_torch_measures(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path, alpha: float
) -> None:
    made = batch_norm(job(data, *line(ends, 0.0, alpha, 1.0)), Workspace(tmp_path / "work"))
    first, inner, last = made.members
    assert first.statistics is None
    assert last.statistics is None
    assert (first.digest(), last.digest()) == (ends[0].digest(), ends[1].digest())
    write_candidate(inner, tmp_path / "mix")
    written = load_file(tmp_path / "mix" / "model.safetensors")
    mixed, b = mixed_by_hand(ends, alpha), tensors(ends[1])
    wanted = updated(mixed, ends[0].weights_folder, images(ROWS, seed=5))
    running = [name for name in wanted if ".running_" in name]
    assert inner.statistics
    assert (len(running), inner.statistics.layers, inner.statistics.rows) == (2 * 8, 8, ROWS)
    for name in running:
        torch.testing.assert_close(written[name], wanted[name], rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.allclose(written[name], mixed[name], rtol=1e-2), name
    for name in wanted.keys() - {*running}:
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(written[name], mixed[name], rtol=1e-6, atol=0, msg=name)
        else:
            assert written[name] == b[name], name


def test_the_rows_are_the_first_of_a_seeded_order(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path
) -> None:
    (member,) = batch_norm(job(data, *line(ends, 0.5), rows=7), Workspace(tmp_path / "work")).members
    chosen = np.random.default_rng([0, 0]).permutation(ROWS)[:7]
    assert member.statistics
    found = load_file(member.statistics.uri)
    wanted = updated(mixed_by_hand(ends, 0.5), ends[0].weights_folder, images(ROWS, seed=5)[chosen])
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_what_is_measured_in_memory_is_what_is_written_and_what_a_stranger_loads(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path
) -> None:
    work = Workspace(tmp_path / "work")
    (member,) = batch_norm(job(data, *line(ends, 0.4)), work).members
    write_candidate(member, tmp_path / "mix")
    written = load_file(tmp_path / "mix" / "model.safetensors")
    for name, tensor in model_of(member, "labeled_images").state_dict().items():
        assert torch.equal(tensor, written[name]), name
    evaluation = Evaluation(dataset="pictures", metrics=(Accuracy(),), resamples=100)
    asked = EvaluateJob(
        name="home",
        evaluation=evaluation,
        candidates=(member,),
        data=data,
        split="test",
        seed=0,
        compute=Compute(threads=1),
    )
    cell = evaluate(asked, work).of(member.name, "home", "test")
    stock = ResNetForImageClassification.from_pretrained(tmp_path / "mix").eval()
    with torch.no_grad():
        probabilities = stock(pixel_values=as_read(images(11, seed=4))).logits.softmax(-1)
    table = read_outcomes(work.root / cell.outcomes)
    np.testing.assert_allclose(table.probabilities, probabilities.numpy(), atol=1e-6)
    plain = evaluate(asked.model_copy(update={"candidates": (member.as_named,)}), work)
    assert plain.of(member.name, "home", "test").outcomes != cell.outcomes


def test_nothing_is_measured_twice(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, asked = Workspace(tmp_path / "work"), job(data, *line(ends, 0.2, 0.8))
    made = batch_norm(asked, work)
    bytes_before = [Path(one.statistics.uri).read_bytes() for one in made.members if one.statistics]
    from ftlib.evaluation import batch_norm as measuring

    monkeypatch.setattr(measuring, "measured", None)
    assert batch_norm(asked, work).members == made.members
    # Killed after one of two candidates: that one is kept.
    folder = work.folder(asked)
    (folder / "artifact.json").unlink()
    monkeypatch.undo()
    (folder / "001.safetensors").unlink()
    folder.rename(folder.with_suffix(".work"))
    calls: list[int] = []
    real = measuring.measured
    monkeypatch.setattr(measuring, "measured", lambda *args: calls.append(1) or real(*args))
    again = batch_norm(asked, work)
    assert len(calls) == 1
    assert [Path(one.statistics.uri).read_bytes() for one in again.members if one.statistics] == bytes_before


def test_a_layer_that_was_frozen_keeps_its_statistics(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path
) -> None:
    start, end = ends[:2]
    norm = "resnet.embedder.embedder.normalization"
    frozen = {f"{norm}.{name}": tensors(start)[f"{norm}.{name}"] for name in ("running_mean", "running_var")}
    folder = tmp_path / "end"
    ResNetForImageClassification.from_pretrained(end.weights_folder).save_pretrained(folder / "model")
    save_file({**tensors(end), **frozen}, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    half = end.model_copy(update={"uri": str(folder), "weights": weights_digest(folder / "model")})
    (member,) = batch_norm(job(data, *line((start, half), 0.5)), Workspace(tmp_path / "work")).members
    assert member.statistics
    assert member.statistics.layers == 7
    write_candidate(member, tmp_path / "mix")
    written = load_file(tmp_path / "mix" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in frozen.items())


@pytest.mark.parametrize("merge", [Average(ingredients=(1, 2)), Ties(density=0.3, scale=0.7), Lerp(alpha=0.5)])
def test_every_method_measures_the_weights_that_it_writes(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path, merge: Average | Ties | Lerp
) -> None:
    siblings = () if isinstance(merge, Lerp) else ends[2:]
    soup = Candidate(name="soup", start=ends[0], end=ends[1], siblings=siblings, merge=merge)
    (member,) = batch_norm(job(data, soup), Workspace(tmp_path / "work")).members
    write_candidate(member, tmp_path / "mix")
    written = load_file(tmp_path / "mix" / "model.safetensors")
    wanted = updated(dict(written), tmp_path / "mix", images(ROWS, seed=5))
    for name in written:
        if ".running_" in name:
            torch.testing.assert_close(written[name], wanted[name], rtol=1e-5, atol=1e-6, msg=name)


def test_statistics_that_were_touched_are_refused(
    ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path
) -> None:
    (member,) = batch_norm(job(data, *line(ends, 0.5)), Workspace(tmp_path / "work")).members
    assert member.statistics
    file = Path(member.statistics.uri)
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(IntegrityError, match="BatchNorm statistics"):
        write_candidate(member, tmp_path / "mix")
    file.unlink()
    with pytest.raises(IntegrityError, match=r"delete .* and run again"):
        model_of(member, "labeled_images")


def test_one_row_is_too_few(ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than 2 rows"):
        batch_norm(job(data, *line(ends, 0.5), rows=1), Workspace(tmp_path / "work"))


@pytest.mark.slow
@pytest.mark.ray
def test_a_ray_worker_measures_the_same(ends: tuple[Checkpoint, ...], data: PreparedDataset, tmp_path: Path) -> None:
    from ftlib.on_ray.session import session

    asked = job(data, *line(ends, 0.25, 0.5))
    on_ray = asked.model_copy(update={"compute": Compute(threads=1, evaluation_workers=2)})
    assert on_ray.fingerprint == asked.fingerprint
    here = batch_norm(asked, Workspace(tmp_path / "here")).members
    with session(on_ray.compute):  # one for both calls: starting Ray is what takes time
        there = batch_norm(on_ray, Workspace(tmp_path / "there")).members
        with pytest.raises(DataError, match="fewer than 2 rows"):
            batch_norm(on_ray.model_copy(update={"rows": 1}), Workspace(tmp_path / "none"))
    assert [one.statistics and one.statistics.sha256 for one in here] == [
        one.statistics and one.statistics.sha256 for one in there
    ]
