"""Whole searches: what is tried is published, killed ones go on, what breaks is counted."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.settings import PREFECT_API_URL, temporary_settings
from safetensors.torch import load_file

from flows.prefect_server import TemporaryServer
from ftlib.registry import ModelRegistry
from ftlib.storage import LocalStore
from ftlib.testing import tiny_recipe as write_tiny_recipe

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(1500)]

RATE = "phases.tune.optimizer.learning_rate"
CHANGES = {
    "interpolation": {"kind": "off"},
    "select": {"by": "home/accuracy"},
    "search": {
        "space": {RATE: {"kind": "log_uniform", "low": 1e-5, "high": 1e-1}},
        "trials": 4,
        "halving": {"factor": 2, "first": 0.25},
        "soup": 2,
    },
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_tiny_recipe(tmp_path_factory.mktemp("searched"))
    recipe: dict[str, Any] = {**yaml.safe_load(path.read_text()), **CHANGES}
    recipe["phases"][-1] |= {"evaluations_per_epoch": 2, "optimizer": {"epochs": 2, "learning_rate": 1e-3}}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have one server for all these commands, which would each start their own."""
    own = TemporaryServer(tmp_path_factory.mktemp("server") / "server.log")
    own.wait()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", own.url)
        yield own.url
    own.stop()


def start(command: str, path: Path, work: Path, *words: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "flows.command_line.main", command, str(path), "--work", str(work), *words, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, start_new_session=True, env=environment)


def finish(command: str, path: Path, work: Path, *words: str) -> dict[str, Any]:
    process = start(command, path, work, *words)
    out, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return json.loads(out)


def came_to(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What trials came to, without what they took."""
    return [
        (trial["number"], trial["values"], *(trial["outcome"][name] for name in ("state", "value", "looks", "end")))
        for trial in record["trials"]
    ]


@pytest.fixture(scope="module")
def searched(path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    work = tmp_path_factory.mktemp("work")
    return finish("search", path, work), work


def test_the_best_is_published_as_a_run_with_its_values_publishes_it(
    path: Path, searched: tuple[dict[str, Any], Path]
) -> None:
    record, work = searched
    assert record["trials"][0]["values"] == {RATE: 1e-3}  # the recipe as it is
    measured = [trial for trial in record["trials"] if trial["outcome"]["state"] == "done"]
    assert record["best"] == max(measured, key=lambda trial: trial["outcome"]["value"]["value"])["number"]
    soup, best = record["soup"], record["trials"][record["best"]]["outcome"]["value"]["value"]
    assert (len(soup["trials"]), soup["why_not"]) == (2, "")
    assert soup["candidate"]
    assert soup["value"]["value"] >= best  # the best end alone is among what it chooses from
    assert soup["taken"] == (soup["value"]["value"] > best)
    again = finish("run", path, work, *(word for one in record["overrides"] for word in ("--set", one)))
    assert again["all_done_before"]
    assert again["version"]["manifest"] == record["version"]["manifest"]
    versions = ModelRegistry(LocalStore(path.parent / "registry")).versions("tiny-router")
    assert [version.version for version in versions] == [1]
    html = (work / "runs" / "tiny" / "search.html").read_text()
    assert "4 trials" in html
    assert "src=" not in html  # it loads nothing else


def test_a_soup_that_is_better_than_the_best_trial_is_what_is_published(path: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    probe, tune = recipe["phases"]
    del tune["evaluations_per_epoch"]
    # A start that has learnt something, from where both ends lie in one basin.
    warm = {**tune, "name": "warm", "optimizer": {"epochs": 10, "learning_rate": 0.006}}
    tune["optimizer"] = {"epochs": 3, "learning_rate": 0.006, "batch_size": 8}
    recipe["phases"] = [probe, warm, tune]
    recipe["evaluations"]["home"]["metrics"].append({"kind": "log_loss"})
    recipe["publish"]["to"]["path"] = str(tmp_path / "registry")
    recipe["select"] = {"by": "home/log_loss"}
    recipe["search"] = {"space": {RATE: {"kind": "choice", "values": [0.006, 0.01]}}, "sampler": "grid", "soup": 2}
    souped, work = tmp_path / "souped.yaml", tmp_path / "work"
    souped.write_text(yaml.safe_dump(recipe, sort_keys=False))
    record = finish("search", souped, work)
    soup, outcomes = record["soup"], [trial["outcome"] for trial in record["trials"]]
    assert sorted(soup["trials"]) == [0, 1]
    assert soup["taken"]
    assert soup["candidate"].startswith("soup of tune+tune-")
    assert soup["value"]["value"] < min(outcome["value"]["value"] for outcome in outcomes)
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    registry.pull(registry.version("tiny-router", 1), tmp_path / "pulled")
    published, *ends = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "pulled", *(Path(outcome["end"]) / "model" for outcome in outcomes))
    )
    for name, tensor in published.items():
        torch.testing.assert_close(tensor, (ends[0][name] + ends[1][name]) / 2)
    assert any(not torch.equal(ends[0][name], ends[1][name]) for name in published)
    again = finish("run", souped, work, *(word for one in record["overrides"] for word in ("--set", one)))
    assert again["all_done_before"]
    html = (work / "runs" / "tiny" / "search.html").read_text()
    assert "Better still is what a soup of 2 trials chose" in html


def test_the_page_of_the_run_in_prefect_is_the_search_s(searched: tuple[dict[str, Any], Path], server: str) -> None:
    record, work = searched
    with temporary_settings({PREFECT_API_URL: server}), get_client(sync_client=True) as client:
        searches = [run for run in client.read_flow_runs() if "tries" in run.parameters]
        (run,) = [run for run in searches if run.parameters["work"] == str(work) and run.parameters["publish"]]
        artifacts = client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])))
    (page,) = [artifact for artifact in artifacts if artifact.key == "search-tiny"]
    assert page.type == "markdown"
    text = str(page.data)
    best = record["trials"][record["best"]]["values"][RATE]
    assert f"Trial {record['best']} is the best" in text
    assert f"{RATE} = {best:g}" in str(page.description)
    assert "Published as tiny-router@1" in str(page.description)
    for override in record["overrides"]:
        assert override in text
    assert text.count("data:image/") >= 2  # each field's values, and the best so far
    table = text.partition("**all trials**")[2].strip().partition("\n\n")[0].splitlines()[2:]
    assert [line.replace("**", "").split(" | ")[0] for line in table] == ["| 0", "| 1", "| 2", "| 3"]
    for trial, line in zip(record["trials"], table, strict=True):
        assert (trial["outcome"]["state"] == "done") != (trial["outcome"]["state"] in line)


def test_a_trial_whose_process_was_killed_has_failed_and_is_tried_again(path: Path, tmp_path: Path) -> None:
    words = ["--try", f"{RATE}=[1e-3, 1e-2]", "--sampler", "grid", "--soup", "1", "--no-publish"]
    words += ["--set", "search.halving=null"]
    search = start("search", path, tmp_path, *words)
    assert search.stderr
    for line in search.stderr:
        if "trial 1 of 2 begins" in line:
            children = psutil.Process(search.pid).children(recursive=True)
            (trying,) = [child for child in children if "flows.searching.process" in child.cmdline()]
            trying.send_signal(signal.SIGKILL)
            break
    out, _ = search.communicate(timeout=600)
    assert search.returncode == 0  # the other was measured
    record = json.loads(out)
    assert [trial["outcome"]["state"] for trial in record["trials"]] == ["done", "failed"]
    assert record["best"] == 0
    assert "its process ended by signal 9" in record["trials"][1]["outcome"]["reason"]
    assert "1 failed" in (tmp_path / "runs" / "tiny" / "search.html").read_text()
    again = finish("search", path, tmp_path, *words)
    assert [trial["outcome"]["state"] for trial in again["trials"]] == ["done", "done"]
    assert again["trials"][0] == record["trials"][0]  # what was over stays as it was
    assert again["trials"][1]["values"] == record["trials"][1]["values"]
    assert again["trials"][1]["outcome"]["value"]["value"] is not None


def test_more_trials_go_on_behind_those_that_are_over(path: Path, searched: tuple[dict[str, Any], Path]) -> None:
    record, work = searched
    more = finish("search", path, work, "--trials", "5", "--no-publish")
    assert came_to(more)[:4] == came_to(record)
    assert len(more["trials"]) == 5
    assert more["version"] is None


def test_one_that_is_killed_comes_to_what_an_undisturbed_one_does(
    path: Path, searched: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    undisturbed = came_to(searched[0])
    for number, how in ((1, signal.SIGKILL), (2, signal.SIGINT)):
        process = start("search", path, tmp_path, "--no-publish")
        assert process.stderr
        for line in process.stderr:
            if f"trial {number} of 4 begins" in line:
                process.send_signal(how)
                break
        process.communicate(timeout=300)
        assert process.returncode != 0
    ended = came_to(finish("search", path, tmp_path, "--no-publish"))
    # Where a checkpoint lies is another work place; its fingerprint is the same.
    assert [(*one[:-1], Path(one[-1]).name) for one in ended] == [
        (*one[:-1], Path(one[-1]).name) for one in undisturbed
    ]


def test_what_breaks_is_counted_and_two_at_once_come_to_the_same(path: Path, tmp_path: Path) -> None:
    words = ["--try", f"{RATE}=[1e30, 1e31, 1e-2]", "--sampler", "grid", "--soup", "1", "--no-publish"]
    halving = ["--set", "search.halving=null"]
    alone = finish("search", path, tmp_path / "alone", *words, *halving)
    beside = finish("search", path, tmp_path / "beside", *words, *halving, "--at-once", "2")
    states = [trial["outcome"]["state"] for trial in alone["trials"]]
    assert states == ["diverged", "diverged", "done"]
    assert "learning rate" in alone["trials"][0]["outcome"]["reason"]
    assert [one[:4] for one in came_to(alone)] == [one[:4] for one in came_to(beside)]
    process = start("search", path, tmp_path / "alone", *words, *halving, "--trials", "2")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 5
    assert "none of 2 trials was measured" in json.loads(out)["error"]["message"]


def test_two_searches_at_once_in_one_work_place_share_their_trials(path: Path, tmp_path: Path) -> None:
    words = ["--sampler", "grid", "--no-publish", "--set", "search.halving=null", "--set", "search.soup=1"]
    rates = {"one": [1e-3, 1e-2], "other": [1e-2, 1e-3, 1e-4]}
    both = {
        name: start("search", path, tmp_path, "--set", f"name={name}", "--try", f"{RATE}={tried}", *words)
        for name, tried in rates.items()
    }
    values: dict[str, dict[float, Any]] = {}
    for name, process in both.items():
        out, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        outcomes = {trial["values"][RATE]: trial["outcome"] for trial in json.loads(out)["trials"]}
        assert {outcome["state"] for outcome in outcomes.values()} == {"done"}
        values[name] = {rate: (outcome["value"], outcome["end"]) for rate, outcome in outcomes.items()}
    assert values["one"] == {rate: values["other"][rate] for rate in values["one"]}
    ends = [json.loads(record.read_text()) for record in tmp_path.glob("stages/train/*/artifact.json")]
    assert sorted(end["phase"] for end in ends) == ["probe", *(["tune"] * len(values["other"]))]


@pytest.mark.ray
def test_two_trials_at_once_on_ray_come_to_what_they_do_without_it(path: Path, tmp_path: Path) -> None:
    words = ["--try", f"{RATE}=[1e-3, 1e-2]", "--sampler", "grid", "--no-publish", "--set", "search.halving=null"]
    alone = finish("search", path, tmp_path / "alone", *words)
    on_ray = ["--set", "compute.workers=1", "--at-once", "2"]
    assert [one[:4] for one in came_to(finish("search", path, tmp_path / "ray", *words, *on_ray))] == [
        one[:4] for one in came_to(alone)
    ]
