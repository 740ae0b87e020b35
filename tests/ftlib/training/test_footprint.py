"""What frozen models beside a phase hold, against the models themselves in memory."""

from pathlib import Path

from ftlib.kinds.loading import head_modules, load, load_model
from ftlib.models.checkpoint import FoundModel
from ftlib.testing import LABELS, tiny_adapter, tiny_checkpoint
from ftlib.training.footprint import footprint, frozen_beside
from ftlib.training.phase import Companion, Phase


def test_every_frozen_model_is_counted_as_it_is_in_memory(tmp_path: Path) -> None:
    dense = tiny_checkpoint(tmp_path / "dense")
    adapter = tiny_adapter(tmp_path / "adapter", dense)
    tuning = {"kind": "lora", "rank": 2, "keep": "adapter"}
    base, tune = (
        Phase.model_validate(
            {
                "name": name,
                "dataset": "d",
                "objective": {"kind": "classification"},
                "tuning": said,
                "companions": beside,
            }
        )
        for name, said, beside in (
            ("probe", {"kind": "linear_probe"}, {}),
            ("tune", tuning, {"start": {"phase": "probe"}, "found": {"phase": "base"}}),
        )
    )
    last = tune.model_copy(update={"name": "last", "companions": {"before": Companion(phase="tune")}})
    phases = (base, tune, last)
    sizes = [footprint(dense.folder, "labeled", len(LABELS), phase.tuning) for phase in phases]
    found = FoundModel(name="x", uri=str(adapter.folder), weights="w", tokenizer="t", form="adapter", base=adapter.base)
    elsewhere = tune.companions | {"found": Companion.model_validate({"model": {"path": "x"}})}
    phases = (base, tune.model_copy(update={"companions": elsewhere}), last)
    beside = frozen_beside(phases, sizes, "labeled", dense.folder, {"tune": {"found": found}}, len(LABELS))
    of_dense = sum(p.numel() for p in load_model(dense.folder, "labeled").parameters())
    of_adapter = sum(p.numel() for p in load(adapter, "labeled").parameters())
    assert beside[0] == {}
    assert {name: one.parameters for name, one in beside[1].items()} == {"start": of_dense, "found": of_adapter}
    model = load_model(dense.folder, "labeled")
    tuned = tune.tuning.prepare(model, "labeled", head_modules(model))
    assert beside[2]["before"].parameters == sum(p.numel() for p in tuned.parameters()) > of_dense
