"""Phases that end as an adapter: what lies in the folder, what it computes, and what goes on from it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.inference import infer_here
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load, load_model, merged
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes.labels import LabelOutcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.kinds.writing import save_adapter
from ftlib.merging.candidate_weights import check_candidate, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.merging.methods import Slerp
from ftlib.models.adapter import WEIGHTS, adapter_digest, base_of
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.models.folder import labels_of, weights_digest
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_row_id, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.curves import FILE, read
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

IDS = torch.tensor([[2, 7, 9, 11, 3], [2, 8, 5, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("data")
    return tiny_prepared(folder, {"train": tiny_rows(48), "validation": tiny_rows(24, seed=1), "test": tiny_rows(12)})


def trained(root: Path, start: Checkpoint, data: PreparedDataset, seed: int = 3, **tuning: Any) -> Checkpoint:
    default = {} if "kind" in tuning else {"kind": "lora", "rank": 2, "alpha": 8.0}
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "classification" if start.labels else "causal_lm"},
            "tuning": {**default, **tuning},
            "optimizer": AdamW(learning_rate=1e-2, epochs=2, batch_size=16),
        }
    )
    job = TrainJob(
        start=start, data=data, phase=phase, precision="fp32", seed=seed, compute=Compute(workers=0, threads=1)
    )
    return train(job, Workspace(root))


def logits(model: Any) -> Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS, attention_mask=MASK).logits


def losses(checkpoint: Checkpoint) -> list[float]:
    return [record["loss"] for record in read(checkpoint.path / FILE) if "loss" in record]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory, start: Checkpoint, data: PreparedDataset) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("ends")
    return {keep: trained(root, start, data, keep=keep) for keep in ("merged", "adapter")}


@pytest.mark.slow
def test_a_kept_adapter_is_the_same_training_without_the_merge(start: Checkpoint, ends: dict[str, Checkpoint]):
    dense, adapter = ends["merged"], ends["adapter"]
    assert losses(adapter) == losses(dense)
    assert adapter.trained_parameters == dense.trained_parameters
    files = {path.name for path in adapter.folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "base.json", "config.json"} <= files
    assert "model.safetensors" not in files
    assert dense.adapter == dense.path / "adapter"
    theirs, ours = (load_file(folder / WEIGHTS) for folder in (dense.path / "adapter", adapter.folder))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert labels_of(adapter.folder) == LABELS
    # Stock transformers and peft, as a stranger has them.
    base = AutoModelForSequenceClassification.from_pretrained(start.folder)
    stock = logits(peft.PeftModel.from_pretrained(base, adapter.folder))
    assert torch.equal(logits(load(adapter, "labeled")), stock)
    torch.testing.assert_close(stock, logits(load(dense, "labeled")), rtol=0, atol=1e-5)


def test_an_adapters_identity_is_its_tensors_its_config_and_its_base(
    start: Checkpoint, ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    adapter = ends["adapter"]
    assert adapter.form == "adapter"
    assert adapter.base is not None
    assert adapter.base.uri == str(start.folder)
    assert adapter.parent == start.weights
    elsewhere = start.model_copy(update={"uri": str(start.path.rename(tmp_path / "moved"))})
    try:
        again = trained(tmp_path, elsewhere, data, keep="adapter")
    finally:
        elsewhere.path.rename(start.path)
    assert (again.weights, again.digest()) == (adapter.weights, adapter.digest())
    assert trained(tmp_path, start, data, seed=4, keep="adapter").weights != adapter.weights


def test_an_adapter_goes_on_from_an_adapter_and_keeps_its_base(
    start: Checkpoint, ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    first = ends["adapter"]
    after = trained(tmp_path, first, data, seed=5, keep="adapter", alpha=16.0)
    assert after.base == first.base
    assert after.parent == first.weights
    config = json.loads((after.folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 16.0)
    # Another scaling computes the same before the first step: so does the loss there.
    same = trained(tmp_path, first, data, seed=5, keep="adapter")
    assert losses(after)[0] == pytest.approx(losses(same)[0], abs=1e-6)
    with pytest.raises(RecipeError, match=r"has .* of shape \[2, 32\], but this tuning makes \[4, 32\]"):
        trained(tmp_path, first, data, keep="adapter", rank=4)


def test_a_dense_phase_merges_the_adapter_that_it_starts_from(
    ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    phase = Phase.model_validate(
        {
            "name": "full",
            "dataset": "d",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": AdamW(learning_rate=1e-3, epochs=1, batch_size=16),
        }
    )
    job = TrainJob(
        start=ends["adapter"], data=data, phase=phase, precision="fp32", seed=1, compute=Compute(workers=0, threads=1)
    )
    end = train(job, Workspace(tmp_path))
    assert (end.form, end.base) == ("dense", None)
    assert end.weights == weights_digest(end.folder)
    # As from the merged weights of the same training, to rounding.
    dense = train(job.model_copy(update={"start": ends["merged"]}), Workspace(tmp_path))
    assert losses(end) == pytest.approx(losses(dense), abs=1e-5)


def test_a_probe_fits_the_head_that_an_adapter_brings(
    ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    phase = Phase.model_validate(
        {
            "name": "probe",
            "dataset": "d",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "linear_probe", "l2": 1.0},
        }
    )
    found: dict[str, Tensor] = {}
    end = ends["merged"]
    for name, start in ends.items():
        job = TrainJob(
            start=start, data=data, phase=phase, precision="fp32", seed=1, compute=Compute(workers=0, threads=1)
        )
        end = train(job, Workspace(tmp_path))
        assert end.form == start.form
        found[name] = logits(load(end, "labeled"))
    torch.testing.assert_close(found["adapter"], found["merged"], rtol=0, atol=1e-4)
    before, after = (load_file(c.folder / WEIGHTS) for c in (ends["adapter"], end))
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }


def test_a_base_that_is_another_one_is_refused(ends: dict[str, Checkpoint], tmp_path: Path):
    adapter = ends["adapter"]
    assert adapter.base
    gone = adapter.model_copy(update={"base": adapter.base.model_copy(update={"uri": str(tmp_path / "gone")})})
    with pytest.raises(ModelError, match="gone"):
        load(gone, "labeled")
    with pytest.raises(ModelError, match="is an adapter"):
        load_model(adapter.folder, "labeled")


def test_an_adapter_without_a_merged_form_goes_through(tmp_path: Path, data: PreparedDataset):
    """Prompt tuning has none: it loads and computes as peft does, and only a merge is refused."""
    start = tiny_checkpoint(tmp_path / "lm", ())
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(start.folder), config)
    base = base_of(start)
    save_adapter(wrapped, model_in(tmp_path / "prompt"), start.folder, base)
    made = start.model_copy(
        update={
            "uri": str(tmp_path / "prompt"),
            "form": "adapter",
            "base": base,
            "weights": adapter_digest(model_in(tmp_path / "prompt"), base),
        }
    )
    ours = load(made, "tokens")
    assert torch.equal(logits(ours), logits(wrapped)[:, 3:])  # which answers for the prompt too
    with pytest.raises(ModelError, match="PROMPT_TUNING has no merged form"):
        merged(ours)


def between_by_hand(start: Checkpoint, end: Checkpoint, alpha: float) -> Tensor:
    """Mix the two models' merged weights in float64, as WiSE-FT is defined."""
    one, other = (merged(load(checkpoint, "labeled")) for checkpoint in (start, end))
    ours, theirs = one.state_dict(), other.state_dict()
    mixed = {name: torch.lerp(ours[name].double(), theirs[name].double(), alpha).float() for name in ours}
    one.load_state_dict(mixed)
    return logits(one)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("first", ["dense", "adapter"])
def test_a_point_of_the_line_is_the_mix_of_the_merged_weights(
    start: Checkpoint, ends: dict[str, Checkpoint], second: Checkpoint, tmp_path: Path, first: str, alpha: float
):
    theta0, theta1 = (start, ends["adapter"]) if first == "dense" else (ends["adapter"], second)
    candidate = Candidate.between(theta0, theta1, alpha)
    check_candidate(candidate)
    wanted = between_by_hand(theta0, theta1, alpha)
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), wanted, rtol=0, atol=2e-5)
    written = write_candidate(candidate, tmp_path / "point")
    assert theta1.base
    stock = AutoModelForSequenceClassification.from_pretrained(start.folder)
    torch.nn.init.normal_(stock.classifier.weight)
    over = logits(peft.PeftModel.from_pretrained(stock, tmp_path / "point"))
    torch.testing.assert_close(over, wanted, rtol=0, atol=2e-5)
    assert (written.weights == theta1.weights) == (alpha == 1.0)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, ends: dict[str, Checkpoint], data: PreparedDataset) -> Checkpoint:
    return trained(tmp_path_factory.mktemp("second"), ends["adapter"], data, seed=5, keep="adapter", alpha=16.0)


def test_a_sweep_over_an_adapter_measures_what_each_point_answers(
    start: Checkpoint, ends: dict[str, Checkpoint], second: Checkpoint, data: PreparedDataset, tmp_path: Path
):
    pairs = [(start, ends["adapter"]), (ends["adapter"], second)]
    points = [Candidate.between(*pair, alpha) for pair in pairs for alpha in (0.5, 1.0, 0.0)]
    plan = PredictionPlan(
        name="home",
        candidates=tuple(points),
        files=tuple(str(tmp_path / f"{i}.parquet") for i in range(len(points))),
        data=data,
        split="test",
        max_new_tokens=0,
        compute=Compute(workers=0, threads=1),
    )
    infer_here(plan)
    split = open_split(split_file(data.path, "test"), LABELS)
    rows = np.arange(len(split))
    for point, file in zip(points, plan.files, strict=True):
        table = read_outcomes(Path(file))
        ids = [tiny_row_id("test", i) for i in range(len(split))]
        table = table.take(np.argsort([ids.index(row) for row in table.row_ids]))
        assert isinstance(table, LabelOutcomes)
        model = model_of(point, "labeled")
        with torch.inference_mode():
            said = model(**split.batch(rows, Collator.of(model)).inputs).logits.double().softmax(-1)
        np.testing.assert_allclose(table.probabilities, said.numpy(), atol=1e-5)


def test_what_is_no_point_of_an_adapters_line_is_refused(start: Checkpoint, ends: dict[str, Checkpoint]):
    point = Candidate.between(start, ends["adapter"], 0.5)
    curved = point.model_copy(update={"merge": Slerp(alpha=0.5)})
    with pytest.raises(ModelError, match=r"adapters are added up, which 'slerp' does not do"):
        check_candidate(curved)
    other = ends["adapter"].model_copy(update={"parent": "x"})
    with pytest.raises(ModelError, match="was not trained from"):
        check_candidate(point.model_copy(update={"end": other}))
