"""What can never come is refused before the first row, in one line: what was asked, what there is, what to change."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.job_submission import JobSubmissionClient
from safetensors import safe_open

from ftlib.errors import RecipeError, ReglageError
from ftlib.evaluation.forward_pass import resources as running_on
from ftlib.on_ray import cluster
from ftlib.progress import Progress, listen
from ftlib.recipe import resources
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources, wanted
from ftlib.testing import tiny_recipe
from ftlib.training.compute import Compute
from ftlib.training.memory.cards import find_card
from ftlib.training.resources import Wanted, in_this_process, lacking


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def recipe(written: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny recipe with other compute, on a machine of 8 CPUs and two GPUs."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80_000_000_000))
    found = load_recipe(written, ())

    def with_(**compute: Any) -> Recipe:
        return found.model_copy(update={"compute": Compute(**compute)})

    return with_


@pytest.mark.parametrize(
    "compute",
    [
        {"workers": 0},
        {"workers": 0, "use_gpu": True},
        {"workers": 2, "use_gpu": True, "threads": 4},
        {"workers": 8, "threads": 1},
        {"workers": 3},  # 2 threads each
        {"workers": 0, "threads": 64},  # this process takes what there is
        {"workers": 1, "evaluation_workers": 2, "use_gpu": True},
    ],
    ids=str,
)
def test_what_the_machine_has_is_granted(recipe: Any, compute: dict[str, Any]) -> None:
    check_resources(recipe(**compute))


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"workers": 3, "use_gpu": True}, r"3 workers of 2 CPUs and 1 GPU, but .* has 2 GPUs, .*lower .* to 2"),
        ({"workers": 9}, r"9 workers of 1 CPU, but this machine has 8 CPUs; lower compute\.workers or .*threads"),
        ({"workers": 2, "threads": 5}, r"2 workers of 5 CPUs, but this machine has 8 CPUs"),
        ({"workers": {"at_least": 1, "at_most": 9}}, r"1 to 9 workers of 1 CPU, but this machine has 8 CPUs; lower"),
        ({"workers": 0, "evaluation_workers": 16}, r"compute\.evaluation_workers asks for 16 workers of 1 CPU, but"),
        ({"workers": 0, "data_workers": 16}, r"data_workers asks for 16 workers of 1 CPU and 1024 MB, but .* 8 CPUs"),
        ({"workers": 0, "data_workers": 8, "data_worker_memory_mb": 10**7}, r"8 workers .* but this machine has .*_mb"),
        ({"workers": 0, "evaluation_workers": 3, "use_gpu": True}, r"n_workers asks for 3 workers .* has 2 GPUs"),
    ],
)  # fmt: skip
def test_what_it_has_not_is_refused(recipe: Any, compute: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_resources(recipe(**compute))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_gpu_that_torch_does_not_see(recipe: Any, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match=r"compute\.use_gpu is true, but torch sees no GPU here.*; set it to false"):
        check_resources(recipe(workers=workers, use_gpu=True))
    with pytest.raises(RecipeError, match=r"torch sees no GPU"), running_on(Compute(use_gpu=True)):
        pass
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(RecipeError, match=r"CUDA_VISIBLE_DEVICES is ''"):
        check_resources(recipe(workers=workers, use_gpu=True))


def test_a_package_that_is_absent_is_named_before_anything(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(workers=0)
    eight = type(asked.phases[1]).model_validate({**asked.phases[1].model_dump(), "optimizer": {"kind": "adamw_8bit"}})
    asked = asked.model_copy(update={"phases": (asked.phases[0], eight)})
    check_resources(asked)
    monkeypatch.setattr(resources, "find_spec", lambda _: None)
    words = r"^phases\[tune\]\.optimizer: 'adamw_8bit' needs bitsandbytes, .*\[bitsandbytes\]', or use 'adamw'$"
    with pytest.raises(RecipeError, match=words):
        check_resources(asked)


def test_memory_is_counted_by_hand(recipe: Any, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full phase: 4 bytes a parameter for the weights, 12 for gradient and moments, for each worker."""
    from transformers import AutoConfig, BertForSequenceClassification

    model = written.parent / "model"
    config = AutoConfig.from_pretrained(model, num_labels=2)
    parameters = sum(p.numel() for p in BertForSequenceClassification(config).parameters())
    for workers, room in ((1, 16 * parameters), (2, 32 * parameters)):
        monkeypatch.setattr(resources, "of_machine", lambda room=room: room)
        check_resources(recipe(workers=workers), model)
        monkeypatch.setattr(resources, "of_machine", lambda room=room: room - 1)
        with pytest.raises(RecipeError, match=rf"phases\[tune\]: {workers} workers? with .* hold at least .* has"):
            check_resources(recipe(workers=workers), model)


def test_nothing_is_counted_where_there_is_room_for_whole_models_twice(
    recipe: Any, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting loads torch: seconds of a run that finds everything done."""
    counted = list[bool]()
    monkeypatch.setattr(resources, "_sizes", lambda *_: counted.append(True) or ())
    model = written.parent / "model"
    with safe_open(model / "model.safetensors", "numpy") as file:
        numbers = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118, it is no dict
    for workers in (1, 2):
        room = 2 * 16 * numbers * workers
        for there, times in ((room, 0), (room - 1, 1)):
            counted.clear()
            monkeypatch.setattr(resources, "of_machine", lambda there=there: there)
            check_resources(recipe(workers=workers), model)
            assert len(counted) == times


def test_a_model_that_cannot_be_counted_is_left_to_the_stage_that_loads_it(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    check_resources(recipe(workers=0), tmp_path)


def test_a_probe_asks_ray_for_nothing(recipe: Any) -> None:
    found = recipe(workers=99)
    check_resources(found.model_copy(update={"phases": found.phases[:1]}))


NODES = [{"CPU": 4.0, "GPU": 1.0, "memory": 1e9}, {"CPU": 4.0}, {"memory": 1e9}]


@pytest.mark.parametrize(
    ("one", "fits"),
    [
        ((2, 4, 0), True),
        ((3, 4, 0), False),
        ((1, 5, 0), False),
        ((4, 2, 0), True),
        ((1, 1, 1), True),
        ((2, 1, 1), False),
    ],
)
def test_workers_fit_where_one_node_has_room_for_each(one: tuple[int, int, int], fits: bool) -> None:
    assert (lacking([Wanted("workers", *one)], NODES) is None) == fits


def answering(monkeypatch: pytest.MonkeyPatch, report: object) -> None:
    rows = [{"state": "ALIVE", "resources_total": node} for node in NODES] + [
        {"state": "DEAD", "resources_total": {"CPU": 99.0}}
    ]
    answers = {
        "/api/v0/nodes": {"data": {"result": {"result": rows}}},
        "/api/cluster_status": {"data": {"clusterStatus": {"autoscalerReport": report}}},
    }
    monkeypatch.setattr(cluster, "job_client", lambda _: JobSubmissionClient.__new__(JobSubmissionClient))
    monkeypatch.setattr(cluster, "_get", lambda _, path: answers[path.partition("?")[0]])


@pytest.mark.parametrize("report", [None, {"activeNodes": {"node_0af3": 1, "nodeBe12": 1}, "pendingLaunches": {}}])
def test_a_cluster_that_does_not_grow_is_compared_with_its_nodes(
    recipe: Any, monkeypatch: pytest.MonkeyPatch, report: object
) -> None:
    answering(monkeypatch, report)
    there = {"ray_address": "http://head:8265", "threads": 4}
    check_resources(recipe(workers=2, **there))
    has = "http://head:8265 has 1 node of 4 CPUs and 1 GPU, 1 node of 4 CPUs and no GPUs"  # and not a head of nothing
    with pytest.raises(RecipeError, match=f"3 workers of 4 CPUs, but {has}; lower it"):
        check_resources(recipe(workers=3, **there))
    heard: list[Progress] = []
    with listen(heard.append):
        check_resources(recipe(workers={"at_least": 2, "at_most": 3}, **there))
    assert [sign.text for sign in heard] == [f"{has}, room for fewer than 3 workers: a training grows when nodes come"]
    with pytest.raises(RecipeError, match="3 to 4 workers of 4 CPUs, but http"):
        check_resources(recipe(workers={"at_least": 3, "at_most": 4}, **there))
    with pytest.raises(RecipeError, match=r"evaluation_workers asks for 2 workers of 4 CPUs and 1 GPU"):
        check_resources(recipe(workers=1, evaluation_workers=2, use_gpu=True, **there))


def test_a_flow_without_a_gpu_beside_a_cluster_says_what_its_cpu_does(
    recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = {"ray_address": "http://head:8265", "threads": 1, "use_gpu": True}
    heard: list[Progress] = []
    with listen(heard.append):
        check_resources(recipe(workers=1, **there))
        found = recipe(workers=1, evaluation_workers=1, **there)
        check_resources(found.model_copy(update={"phases": ()}))
    of_run, of_comparison = [sign.text for sign in heard]
    assert "torch sees no GPU here" in of_run
    assert "phases[probe], evaluations; compute.evaluation_workers: 2 or more" in of_run
    assert ": evaluations; compute" in of_comparison
    with running_on(found.compute) as device:
        assert device.type == "cpu"
    with pytest.raises(RecipeError, match=r"compute\.workers: 0 workers train in this process, .*no GPU.*set workers"):
        check_resources(recipe(workers=0, **there))


def test_a_flow_with_a_gpu_beside_a_cluster_uses_it(recipe: Any) -> None:
    compute = recipe(workers=1, ray_address="http://head:8265", use_gpu=True).compute
    assert in_this_process(compute) is compute
    assert not in_this_process(Compute(ray_address="http://head:8265")).use_gpu


def test_a_cluster_that_grows_says_what_is_waited_for(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {"activeNodes": {"headgroup": 1}, "pendingLaunches": {"gpuGroup": 2}})
    heard: list[Progress] = []
    with listen(heard.append):
        check_resources(recipe(workers=3, threads=4, ray_address="http://head:8265"))
    assert [(sign.stage, sign.text) for sign in heard] == [
        ("cluster", "compute.workers asks for 3 workers of 4 CPUs; nodes may still come")
    ]


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "nonsense", "http://no-such-host.invalid:8265"])
def test_a_cluster_that_is_not_there_is_one_line(recipe: Any, address: str) -> None:
    with pytest.raises(ReglageError, match=r"compute\.ray_address is .*, where no Ray cluster answers") as caught:
        check_resources(recipe(workers=1, ray_address=address))
    assert "\n" not in str(caught.value)


def test_what_is_wanted_is_what_training_and_measuring_ask_ray_for(recipe: Any) -> None:
    from ftlib.evaluation.inference import threads_each

    found = recipe(workers=2, evaluation_workers=3, use_gpu=True)
    assert wanted(found) == (
        Wanted("workers", 2, 4, 1),
        Wanted("evaluation_workers", 3, threads_each(found.compute), 1),
    )


@pytest.mark.parametrize("field", ["collective_timeout_seconds", "start_timeout_seconds"])
@pytest.mark.parametrize("seconds", [0, 1e300, float("inf"), float("nan")])
def test_no_one_waits_for_more_than_a_month(field: str, seconds: float) -> None:
    """Of more seconds torch makes no time."""
    with pytest.raises(ValueError, match=field):
        Compute.model_validate({field: seconds})


def test_the_remedy_says_between_how_many_workers_a_model_fits(
    recipe: Any, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = SimpleNamespace(total_memory=200_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    asked = recipe(workers=1, use_gpu=True)
    phases = tuple(phase.model_copy(update={"precision": "fp32"}) for phase in asked.phases)
    with pytest.raises(RecipeError, match=r"but one GPU has 200 kB; shard it over 3 workers or more \(compute\.shardi"):
        check_resources(asked.model_copy(update={"phases": phases}), written.parent / "model")


def test_bf16_on_a_card_without_it_is_refused_before_anything(recipe: Any) -> None:
    found = recipe()
    phases = tuple(phase.model_copy(update={"precision": "bf16"}) for phase in found.phases)
    asked = found.model_copy(update={"phases": phases})
    with pytest.raises(RecipeError, match=r"phases\[probe\]\.precision: bf16, which T4-16 does not compute"):
        resources.check_card(asked, find_card("T4-16"))
    resources.check_card(asked, find_card("L4-24"))
    assert resources.precision_on(find_card("V100-32"), found.phases[0]) == "fp32"
    assert resources.room_of(Compute(), find_card("h100-80")) == 80_000_000_000


def test_the_room_of_a_gpu_that_is_not_seen_here_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resources.room_of(Compute(use_gpu=True, ray_address="http://head:8265")) is None
    assert resources.room_of(Compute()) is not None
