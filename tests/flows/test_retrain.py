"""Retraining against a real registry and Prefect's test server, as fresh files come in."""

import json
import math
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from prefect import flow, get_client
from prefect.client.schemas.objects import State
from prefect.testing.utilities import prefect_test_harness

from flows.retrain import retrain
from flows.retraining.approval import Approval, asks_a_person, one_at_a_time
from flows.retraining.challenge import (
    Challenge,
    challenge,
    drop_asked,
    judged_before,
    keep_asked,
    settle,
    to_unlearn,
)
from flows.retraining.fresh_data import Listing
from flows.retraining.retrain_page import markdown
from ftlib.data.forgotten import ForgetRequest, digest_of_key, write_request
from ftlib.errors import DataError
from ftlib.published.ancestry import Ancestry
from ftlib.published.erasure import Eraser
from ftlib.published.row_search import Wanted, find_rows
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Version
from ftlib.retraining.file_ledger import FileLedger
from ftlib.storage import LocalStore
from ftlib.testing import tiny_chat_lm, tiny_recipe, tiny_rows, write_jsonl
from ftlib.workspace import Workspace, leave
from tasks.runner import Runner
from tests.recipes.test_recipes import FOLDER, tiny_overrides

pytestmark = pytest.mark.prefect

NAME = "tiny-router"


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


class Model:
    """A model in production: a folder where files arrive, a registry, and the recipe that keeps it fresh."""

    def __init__(self, folder: Path) -> None:
        self.path = tiny_recipe(folder)
        self.rows = folder / "arriving"
        self.rows.mkdir()
        text = self.path.read_text().replace(f"{folder}/home.jsonl", f"{self.rows}/")
        self.path.write_text(text + "retrain: {min_fresh_rows: 50}\n")
        self.work = folder / "work"
        self.registry = ModelRegistry(LocalStore(folder / "registry"))

    def arrive(self, name: str, rows: int, seed: int) -> None:
        write_jsonl(self.rows / name, tiny_rows(rows, seed=seed))

    def retrain(self, *overrides: str) -> tuple[State, Challenge]:
        state = retrain(str(self.path), overrides=list(overrides), work=str(self.work), return_state=True)
        return state, state.result()

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(self.path, list(overrides))

    def champion(self) -> int | None:
        entry = self.registry.alias(NAME, "champion")
        return entry.version if entry else None


@flow
def up_to_the_decision(recipe: Recipe, work: Path) -> Challenge:
    """A retraining that stops, or is stopped, before anything is promoted."""
    return challenge(recipe, Runner(Workspace(work)), "this-run")


@flow
def decided(
    recipe: Recipe, work: Path, found: Challenge, approval: Approval | None, shown_hold: int | None = None
) -> Challenge:
    return settle(recipe, Runner(Workspace(work)), found, approval, shown_hold)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    model = Model(tmp_path)
    model.arrive("monday.jsonl", 120, seed=0)
    return model


@pytest.fixture
def kept(model: Model) -> Model:
    """With its first version in place."""
    model.retrain()
    return model


def test_the_first_version_is_promoted_and_then_there_is_nothing_new(model: Model, monkeypatch: pytest.MonkeyPatch):
    decided_when_free = list[int]()

    @contextmanager
    def slot(name: str, work: Workspace) -> Iterator[None]:
        with one_at_a_time(name, work):
            yield
        decided_when_free.append(FileLedger(model.registry.store, NAME, "home").state().sequence)

    monkeypatch.setattr("flows.retrain.one_at_a_time", slot)
    state, first = model.retrain()
    assert decided_when_free == [1]  # who waited for it meanwhile finds that, and trains on nothing
    assert (state.name, first.what, model.champion()) == ("Promoted", "promoted", 1)
    assert first.worth is not None
    assert first.worth.reasons == ("there is no champion yet",)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(state.state_details.flow_run_id).name == "retrain-tiny · tiny-router@1 promoted"
    state, second = model.retrain()
    assert (state.name, second.what) == ("Skipped", "skipped")
    assert state.is_completed()
    assert state.message == "Skipped: no file is new or gone; version 1 stays"
    assert (model.work / "runs" / "tiny" / "retrain.md").read_text().count("no file is new or gone") == 1
    assert second.steps == ()  # no stage ran, so no Ray either
    assert [version.version for version in model.registry.versions(NAME)] == [1]


@pytest.mark.slow
@pytest.mark.parametrize(("start", "snapshots"), [("base", True), ("champion", False)])
def test_rows_to_be_forgotten_are_reason_enough_to_train_and_the_next_version_does_not_know_them(
    model: Model, start: str, snapshots: bool
):
    write_jsonl(model.rows / "monday.jsonl", [{"id": n, **row} for n, row in enumerate(tiny_rows(120))])
    keyed, keys = "datasets.home.key=id", tuple(map(str, range(5)))
    assert model.retrain(keyed)[1].what == "promoted"
    leave(model.work)
    if not snapshots:
        shutil.rmtree(model.work / "stages" / "ingest")  # as `work gc` does where they are kept for some days
    assert Eraser(model.work, keys).erase([model.registry], delete=True).rows == 5 * snapshots
    _, second = model.retrain(keyed, "retrain.margin=1.0", f"retrain.start={start}")  # no file is new
    assert second.what == "promoted"
    assert any("to be forgotten that the champion was trained on" in reason for reason in second.worth.reasons)
    assert second.evidence.raw["home"].ledger.dropped == {"forgotten": 5}
    found = find_rows(model.registry, [Wanted(by="key", value=key) for key in keys]).found
    assert {one.version for one in found} == {f"{NAME}@1"}  # neither by its rows nor through its weights
    assert model.retrain(keyed)[1].what == "skipped"


@pytest.mark.parametrize(
    ("ancestors", "version", "rows"),
    [((), 1, 1), ((), 2, 0), (("base@4", f"{NAME}@1"), 2, 1), (("base@4",), 2, 0)],  # the second is of start: champion
)
def test_what_a_version_has_learnt_is_to_be_unlearnt_though_no_snapshot_is_left(
    model: Model, monkeypatch: pytest.MonkeyPatch, ancestors: tuple[str, ...], version: int, rows: int
):
    key, other = digest_of_key("17") or "", digest_of_key("18") or ""
    request = ForgetRequest(
        keys={key: (), other: ()}, learnt={key: (f"{NAME}@1",), other: ("base@4",)}, at="2026-11-28", by="ann"
    )
    recipe, work, champion = model.recipe(), Workspace(model.work), MagicMock()
    champion.version = Version(name=NAME, version=version, manifest="0" * 64, key="", nonce="", published_at="")
    monkeypatch.setattr(Ancestry, "read", lambda _: SimpleNamespace(ancestors=lambda _: [*ancestors]))
    assert to_unlearn(recipe, work, champion, model.registry) == 0
    write_request(work, request)
    assert to_unlearn(recipe, work, champion, model.registry) == rows


@pytest.mark.slow
def test_too_few_rows_wait_until_there_are_enough(kept: Model):
    kept.arrive("tuesday.jsonl", 30, seed=11)
    state, few = kept.retrain()
    assert state.name == "Skipped"
    assert "30 fresh rows (arriving" not in state.message
    assert "30 fresh rows (home: 1 added), needed are 50" in state.message
    assert few.evidence is None
    kept.arrive("wednesday.jsonl", 30, seed=2)
    _, enough = kept.retrain()
    assert enough.news["home"].fresh_rows == 60  # Tuesday's were not forgotten
    assert enough.worth is not None
    assert enough.worth.go


@pytest.mark.slow
def test_files_that_were_only_touched_are_no_news_and_are_read_once(kept: Model):
    os.utime(kept.rows / "monday.jsonl", (1, 1))  # as after a restore from a backup
    state, _ = kept.retrain("retrain.max_age_days=0.000001")
    assert state.message == "Skipped: no row is new or gone (home: 1 edited); version 1 stays"
    state, _ = kept.retrain()
    assert state.message == "Skipped: no file is new or gone; version 1 stays"


@pytest.mark.slow
def test_challenger_and_champion_are_measured_on_the_same_rows(kept: Model):
    kept.arrive("tuesday.jsonl", 80, seed=11)
    slices = [f"datasets.{name}.format.slices=[label]" for name in ("home", "away")]
    _, found = kept.retrain("retrain.margin=1", *slices)
    assert (found.what, kept.champion()) == ("promoted", 2)
    assert found.evidence is not None
    stages = [step.stage for step in found.steps]
    assert len(set(stages)) == len(stages)  # whose a stage is, is said
    assert {"evaluate home test", "champion: evaluate home test"} <= {*stages}
    challenger = found.evidence.measured(found.evidence.selection.chosen.name)
    champion = {cell.evaluation: cell for report in found.champion_cells for cell in report.measured}
    assert {name: cell.rows for name, cell in champion.items()} == {name: c.rows for name, c in challenger.items()}
    for d in found.differences:
        ours, theirs = (cells[d.evaluation].metrics[d.metric].value for cells in (challenger, champion))
        assert d.estimate.value == pytest.approx(ours - theirs, abs=1e-12)
    entry = kept.registry.history(NAME, "champion")[-1]
    assert "the rule is a loss of at most 1" in entry.why
    page = (kept.work / "runs" / "tiny" / "retrain.md").read_text()
    for words in ("tiny-router: promoted", "80 fresh rows", "| home | champion |", "version 1 was in place"):
        assert words in page
    for cell in champion.values():
        for name, facts in cell.slices.items():
            ours = challenger[cell.evaluation].slices[name]
            assert f"| {cell.evaluation} | {name} | {ours.rows} | accuracy |" in page
            assert facts.rows == ours.rows
    case = markdown(found, "http://pages/artifacts/artifact/7")
    assert case.index("](http://pages/artifacts/artifact/7)") < case.index("## Challenger against champion")


@pytest.mark.slow
def test_a_challenger_that_is_not_better_is_published_and_not_promoted(kept: Model):
    kept.arrive("tuesday.jsonl", 80, seed=11)
    state, found = kept.retrain("retrain.promote=better", "retrain.margin=0")
    assert (state.name, state.is_completed()) == ("Not promoted", True)
    assert found.version is not None
    assert (found.version.version, kept.champion()) == (2, 1)
    state, _ = kept.retrain("retrain.promote=better")
    assert state.name == "Skipped"  # decided once: the same rows are not trained on every night


@pytest.mark.slow
def test_a_gate_refuses_before_anything_is_published(kept: Model):
    kept.arrive("tuesday.jsonl", 80, seed=11)
    state, found = kept.retrain("select.gates=[{metric: home/accuracy, at_least: 1.0}]")
    assert state.name == "Not promoted"
    assert "at least 1 is required" in state.message
    assert found.version is None
    assert kept.champion() == 1


@pytest.mark.slow
def test_from_the_champion_on_with_its_head_kept(kept: Model):
    kept.arrive("tuesday.jsonl", 80, seed=11)
    _, found = kept.retrain("retrain.start=champion")
    assert found.evidence is not None
    assert not found.evidence.checkpoints[0].fresh_head
    manifest = kept.registry.manifest(kept.registry.version(NAME, 2))
    assert manifest.lineage["base_model"]["name"] == "tiny-router@1"
    first = kept.registry.manifest(kept.registry.version(NAME, 1))
    assert found.evidence.checkpoints[0].weights == first.lineage["weights"]["published"]


@pytest.mark.slow
def test_fresh_rows_with_a_replay_of_old_ones(kept: Model):
    kept.arrive("tuesday.jsonl", 80, seed=11)
    _, found = kept.retrain("retrain.rows={kind: replay, share: 0.5}", "retrain.margin=1")
    assert found.evidence is not None
    prepared = found.evidence.prepared["home"]
    left_out = prepared.ledger.dropped["not_replayed"]
    assert 0 < left_out < 120
    assert prepared.splits["train"].rows + prepared.splits["test"].rows + prepared.splits["validation"].rows == (
        found.evidence.raw["home"].ledger.kept - sum(prepared.ledger.dropped.values())
    )
    assert found.what == "promoted"  # measured on all held-out rows, old and new


@pytest.mark.slow
def test_labels_that_appear_are_an_error_unless_allowed(kept: Model):
    rows = [{**row, "label": "unheard-of"} for row in tiny_rows(60, seed=5)]
    write_jsonl(kept.rows / "odd.jsonl", rows)
    with pytest.raises(DataError, match=r"new unheard-of, gone none; .* retrain.labels_may_change"):
        kept.retrain()
    assert kept.champion() == 1
    _, found = kept.retrain("retrain.labels_may_change=true")
    assert found.what == "promoted"
    assert "gates alone decide" in found.reasons[0]
    assert found.differences == ()


@pytest.mark.slow
def test_an_edited_file_gives_its_rows_anew_and_a_lost_share_of_files_fails(kept: Model):
    kept.arrive("monday.jsonl", 110, seed=4)
    _, found = kept.retrain()
    assert len(found.changes["home"].edited) == 1
    assert found.evidence is not None
    assert found.evidence.raw["home"].ledger.rows_in == 110  # the earlier rows of the file are gone
    (kept.rows / "monday.jsonl").unlink()
    kept.arrive("other.jsonl", 100, seed=6)
    with pytest.raises(DataError, match="1 of 1 files known from earlier runs are gone"):
        kept.retrain()


@pytest.fixture
def waiting(kept: Model) -> Callable[..., tuple[Recipe, Challenge]]:
    def wait(*overrides: str) -> tuple[Recipe, Challenge]:
        kept.arrive("tuesday.jsonl", 80, seed=11)
        recipe = kept.recipe("retrain.margin=1", *overrides)
        found = up_to_the_decision(recipe, kept.work)
        assert found.what == "waiting"
        assert kept.champion() == 1
        return recipe, found

    return wait


@pytest.mark.slow
def test_a_promotion_that_lost_the_race_is_judged_against_the_new_champion(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]]
):
    recipe, found = waiting()
    kept.retrain("seed=3", "retrain.margin=1")  # another one trains on the same files and wins
    assert kept.champion() == 3
    settled = decided(recipe, kept.work, found, None)
    assert settled.champion is not None
    assert settled.champion.version == 3  # the one it was measured against in the end
    assert (settled.what, kept.champion()) == ("promoted", 2)
    assert settled.reasons[-1] == "another retraining considered these files at the same time"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "what", "said"),
    [
        (Approval(decision="promote", who="Ada", why="looks right"), "promoted", "loss of at most 1"),
        (Approval(decision="reject", who="Ada", why="wait for May"), "not_promoted", "Ada said no: wait for May"),
        (None, "not_promoted", "a person has to agree: reglage registry promote tiny-router@2"),
    ],
)
def test_a_person_decides_where_the_recipe_asks_for_it(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]], answer: Approval | None, what: str, said: str
):
    recipe, found = waiting("retrain.approval=by_hand")
    settled = decided(recipe, kept.work, found, answer)
    assert settled.what == what
    assert said in "; ".join(settled.reasons)
    if what == "promoted":
        entry = kept.registry.history(NAME, "champion")[-1]
        assert entry.who == "Ada"
        assert entry.why.endswith("; looks right")
    else:
        assert kept.champion() == 1


@pytest.mark.slow
def test_a_person_s_rollback_holds_until_a_person_promotes(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]]
):
    recipe, found = waiting()
    kept.registry.promote(NAME, "champion", 2, 1, "ann", "")
    back = kept.registry.rollback(NAME, "champion", 2, "Ann", "complaints")
    held = decided(recipe, kept.work, found, None)
    assert (held.title, kept.champion()) == ("Held", 1)
    rolled, *_, how = held.reasons
    assert rolled.startswith(f"Ann rolled tiny-router@champion back to version 1 at {back.at} (complaints): ")
    assert how.startswith("to promote the challenger: reglage registry promote tiny-router@2 --registry ")
    assert "# tiny-router: held\n\n- Ann rolled" in markdown(held)
    by_hand, case = decided(recipe, kept.work, found, Approval(decision="promote", who="Ada")), markdown(found)
    assert (by_hand.what, "**Held:**" in case) == ("held", False)  # whom nobody told
    approved = decided(recipe, kept.work, found, Approval(decision="promote", who="Ada"), back.sequence)
    assert (approved.what, kept.champion()) == ("promoted", 2)
    assert "**Held:** Ann rolled" in markdown(approved.ended("waiting"))  # judged again: this is what is asked then
    assert kept.registry.hold(NAME, "champion") is None


@pytest.mark.parametrize("answer", [{}, {"decision": "reject"}, {"decision": "promote", "who": "  "}, {"who": "Ann"}])
def test_nobody_rejects_in_nobody_s_name(answer: dict[str, str]):
    with pytest.raises(ValueError, match="Approval"):
        Approval.model_validate(answer)
    assert {*Approval.model_json_schema()["required"]} == {"decision", "who"}  # what Prefect's server checks


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_files_it_saw(kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]]):
    recipe, found = waiting()
    kept.arrive("wednesday.jsonl", 90, seed=2)  # while a person thinks
    again = up_to_the_decision(recipe, kept.work)
    assert again.listing == found.listing
    assert again.version is not None
    assert again.version.manifest == found.version.manifest
    assert all(step.done_before for step in again.steps)
    assert json.loads((kept.work / "listings" / "this-run.json").read_text())["seen"]["home"]["changes"]["added"]


@pytest.mark.slow
def test_a_clock_that_was_a_year_ahead_loses_no_row_and_blocks_nothing(model: Model, monkeypatch: pytest.MonkeyPatch):
    ahead, policy = time.time() + 366 * 86400, ["retrain.max_age_days=30", "retrain.margin=1"]
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "gmtime", lambda *_: datetime.fromtimestamp(ahead, UTC).timetuple())
        os.utime(model.rows / "monday.jsonl", (ahead, ahead))
        model.retrain(*policy)
    entry = model.registry.alias(NAME, "champion")
    assert entry is not None
    assert entry.at[:4] > str(datetime.now(UTC).year)
    assert model.retrain(*policy)[0].message == "Skipped: no file is new or gone; version 1 stays"
    model.arrive("tuesday.jsonl", 10, seed=11)  # written a year before what is known already
    _, found = model.retrain(*policy)
    assert found.evidence is not None
    assert found.evidence.raw["home"].ledger.rows_in == 130
    assert "a clock was wrong, its age is not known" in str(found.worth)
    assert (found.what, model.champion()) == ("promoted", 2)
    model.arrive("wednesday.jsonl", 10, seed=2)
    state, _ = model.retrain(*policy)
    assert state.name == "Skipped"  # the second champion has the right date
    assert "needed are 50" in state.message


@pytest.mark.slow
def test_a_run_that_is_killed_before_its_decision_leaves_its_files_new(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]]
):
    waiting()
    _, found = kept.retrain("retrain.margin=1")
    assert found.news["home"].fresh_rows == 80
    assert [v.version for v in kept.registry.versions(NAME)] == [1, 2]  # published once
    assert found.version is not None
    assert not found.version.created


@pytest.mark.slow
def test_a_run_that_is_killed_between_promotion_and_ledger_is_not_trained_again(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]]
):
    waiting("retrain.start=champion")
    kept.registry.promote(NAME, "champion", 2, 1, "the run", "and then it was killed")
    state, _ = kept.retrain("retrain.start=champion")  # from version 2 on it would be another training
    assert state.message == "Skipped: no row is new or gone (home: 1 added); version 2 stays"
    assert [v.version for v in kept.registry.versions(NAME)] == [1, 2]
    assert kept.retrain()[1].reasons == ("no file is new or gone; version 2 stays",)


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["promote", "record"], ids=["behind the alias", "behind the ledger"])
def test_a_run_that_is_killed_behind_its_promotion_and_tried_again_ends_as_promoted(
    kept: Model,
    waiting: Callable[..., tuple[Recipe, Challenge]],
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
):
    recipe, found = waiting()
    owner: Any = ModelRegistry if killed_in == "promote" else Listing
    does = getattr(owner, killed_in)

    def killed(*given: Any) -> None:
        does(*given)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(owner, killed_in, killed)
        with pytest.raises(SystemExit):
            decided(recipe, kept.work, found, None)
    assert kept.champion() == 2
    assert judged_before(recipe, Workspace(kept.work), "another-run") is None
    again = judged_before(recipe, Workspace(kept.work), "this-run")
    assert again is not None
    settled = decided(recipe, kept.work, again, None)
    assert (settled.what, settled.reasons) == ("promoted", found.reasons)  # no other run has considered these files
    assert [entry.version for entry in kept.registry.history(NAME, "champion")] == [1, 2]


@pytest.mark.slow
def test_what_a_person_was_asked_about_is_what_goes_on(
    kept: Model, waiting: Callable[..., tuple[Recipe, Challenge]], monkeypatch: pytest.MonkeyPatch
):
    recipe, found = waiting()
    work = Workspace(kept.work)
    assert judged_before(recipe, work, "this-run") is None
    keep_asked(found, work)
    other = kept.recipe("retrain.margin=0.5", "phases.tune.optimizer.learning_rate=1e-5")  # edited while she thinks
    assert judged_before(other, work, "this-run") == found
    assert judged_before(other, work, "another-run") is None
    with monkeypatch.context() as patch:
        patch.setattr("flows.retraining.challenge.read_requests", lambda _: ["somebody"])
        assert judged_before(recipe, work, "this-run") is None  # its version may know what is to be forgotten
    drop_asked(recipe, work, "this-run")
    assert judged_before(recipe, work, "this-run") is None


@pytest.mark.parametrize(
    ("policy", "deployed", "asks"), [("by_hand", True, True), ("by_hand", False, False), ("automatic", True, False)]
)
def test_a_run_waits_only_where_it_can_be_started_again(
    model: Model, monkeypatch: pytest.MonkeyPatch, policy: str, deployed: bool, asks: bool
):
    monkeypatch.setattr(
        "flows.retraining.approval.deployment", SimpleNamespace(id="a deployment" if deployed else None)
    )
    assert asks_a_person(model.recipe(f"retrain.approval={policy}")) is asks


@pytest.mark.slow
def test_what_an_earlier_release_published_and_considered_is_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with tarfile.open(Path(__file__).parents[1] / "upgrade" / "fe4a957.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("rows/wednesday.jsonl"), tiny_rows(140)[110:])
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    moved = "datasets.tickets.limits.vanished=1"  # the files of then lay elsewhere
    for name, fresh in (("router", 60), ("adapted", 30)):  # router@1, which is in place again, never saw Tuesday's
        own = ["retrain.start=champion", moved, "publish.sign_with=null"]
        found = retrain(f"{name}.yaml", overrides=own, work="work", return_state=True).result()
        assert found.version is not None
        assert found.news["tickets"].fresh_rows == fresh
        assert (found.what, registry.alias(name, "champion").version) == ("promoted", found.version.version)
        manifest = registry.manifest(registry.version(name, found.version.version))
        assert manifest.lineage["base_model"]["name"] == f"{name}@1"
        assert any(file.path.startswith("adapter/") for file in manifest.files) == (name == "adapted")
    assert FileLedger(registry.store, "router", "tickets").state().sequence == 3


@pytest.mark.slow
def test_feedback_that_comes_later_is_fresh_rows(tmp_path: Path) -> None:
    tiny_chat_lm(tmp_path / "model")
    log = [{"request_id": i, "prompt": row["text"], "answer": "no", "time": i} for i, row in enumerate(tiny_rows(90))]
    corrected = [{**line, "correction": "please ask the card team"} if line["time"] < 60 else line for line in log]
    write_jsonl(tmp_path / "log" / "1.jsonl", corrected)
    path = tmp_path / "feedback.yaml"
    path.write_text(FEEDBACK.format(folder=tmp_path))

    def again() -> tuple[State, Challenge]:
        state = retrain(str(path), overrides=[], work=str(tmp_path / "work"), return_state=True)
        return state, state.result()

    assert again()[0].name == "Promoted"
    write_jsonl(tmp_path / "log" / "2.jsonl", [{"request_id": i, "thumb": False, "time": 200} for i in range(50)])
    assert again()[0].message == "Skipped: no row is new or gone (corrections: 1 added); version 1 stays"
    late = [{"request_id": i, "correction": "please ask the mail team", "time": 300} for i in range(50, 85)]
    write_jsonl(tmp_path / "log" / "3.jsonl", late)
    state, found = again()
    assert found.news["corrections"].fresh_rows == 35
    assert state.name in ("Promoted", "Not promoted")
    assert found.worth is not None
    assert found.worth.go


FEEDBACK = """
name: feedback
model: {{path: {folder}/model}}
datasets:
  corrections:
    source: {{kind: feedback, path: {folder}/log/, gives: corrections}}
    key: request_id
    format: {{kind: prompt_completion, prompt: prompt, completion: correction, max_tokens: 32}}
phases:
  - name: tune
    dataset: corrections
    objective: {{kind: completion}}
    tuning: {{kind: full}}
    optimizer: {{epochs: 1}}
evaluations: {{fit: {{dataset: corrections, metrics: [{{kind: perplexity}}]}}}}
select: {{by: fit/perplexity}}
compute: {{workers: 0, threads: 1}}
publish: {{name: tiny-feedback, to: {{kind: folder, path: {folder}/registry}}}}
retrain: {{min_fresh_rows: 20}}
"""


@pytest.mark.slow
def test_thumbs_and_pairs_that_come_later_are_learnt_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By recipes/feedback.yaml: 40 new answers with thumbs up, 10 others to the same prompts with thumbs down."""
    monkeypatch.chdir(tmp_path)
    path = FOLDER / "feedback.yaml"
    overrides = [*tiny_overrides(load_recipe(path), tmp_path, ""), "retrain.margin=1000"]

    def again() -> tuple[State, Challenge]:
        state = retrain(str(path), overrides=overrides, work=str(tmp_path / "work"), return_state=True)
        return state, state.result()

    def learnt(found: Challenge) -> tuple[int, int]:
        """Return the rows of thumbs that trained, and the rows of pairs that are measured."""
        assert found.evidence is not None
        (judge,) = [end for end in found.evidence.checkpoints if end.phase == "judge"]
        prepared = found.evidence.prepared
        train = prepared["thumbs"].splits["train"].rows
        assert judge.facts["steps"] == math.ceil(train / 16)
        return train, sum(split.rows for split in prepared["pairs"].splits.values())

    state, first = again()
    assert state.name == "Promoted"
    assert first.news["thumbs"].fresh_rows == 150
    train, pairs = learnt(first)
    assert pairs == 75  # of corrections alone: no prompt was answered twice
    new = [
        {"request_id": 200 + i, "prompt": row["text"], "label": row["label"], "answer": "ask", "thumb": True}
        for i, row in enumerate(tiny_rows(40, seed=9))
    ]
    worse = [{**line, "request_id": 300 + i, "answer": "no", "thumb": False} for i, line in enumerate(new[:10])]
    other = [{"request_id": i, "thumb": i % 3 == 0} for i in (0, 2, 4)]  # thought better of
    lines = [{**line, "time": "2026-04-01T09:30:00Z"} for line in (*new, *worse, *other)]
    write_jsonl(tmp_path / "rows" / "feedback" / "2027.jsonl", lines)
    state, second = again()
    assert {name: of.fresh_rows for name, of in second.news.items()} == {"corrections": 0, "thumbs": 53}
    assert second.evidence is not None
    assert second.evidence.raw["thumbs"].ledger.kept == 200
    more, paired = learnt(second)
    assert 30 < more - train <= 50  # of 50 new rows the split holds some out
    assert paired == 85
    assert (state.name, second.what) == ("Promoted", "promoted")
    assert second.version is not None
    assert first.version is not None
    assert (second.version.version, second.version.created) == (2, True)
    assert second.version.manifest != first.version.manifest
    assert again()[0].name == "Skipped"
