from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.evaluation.selection import Select
from ftlib.recipe.preflight import (
    check_labels,
    check_parts,
    check_registry,
    check_rule,
    rare_label_notes,
    spelling_notes,
)
from ftlib.recipe.recipe import Recipe
from ftlib.registry.places.folder import Folder
from ftlib.registry.publish import Publish
from ftlib.storage import LocalStore
from ftlib.testing import tiny_prepared, tiny_rows
from ftlib.workspace import Workspace


def recipe(labeled: bool = True) -> Recipe:
    format = (
        {"kind": "labeled_text", "text": "text", "label": "label"} if labeled else {"kind": "plain_text", "text": "t"}
    )
    dataset = {"source": {"kind": "files", "path": "x"}, "format": format}
    metrics = [{"kind": "accuracy" if labeled else "perplexity"}]
    objective = {"kind": "classification" if labeled else "causal_lm"}
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "datasets": {"mail": dataset, "shifted": dataset},
            "phases": [{"name": "tune", "dataset": "mail", "objective": objective, "tuning": {"kind": "full"}}],
            "evaluations": {
                "id": {"dataset": "mail", "metrics": metrics},
                "ood": {"dataset": "shifted", "metrics": metrics},
            },
            "select": {"by": f"ood/{metrics[0]['kind']}"},
            "publish": {"name": "r"},
        }
    )


def prepared(
    folder: Path, rows: Any = None, labels: tuple[str, ...] = ("a", "b"), labeled: bool = True
) -> PreparedDataset:
    rows = rows or {split: tiny_rows(6, labels) for split in ("train", "validation", "test")}
    return tiny_prepared(folder, rows, kind="labeled" if labeled else "tokens")


def test_the_labels_are_those_that_training_sees(tmp_path: Path) -> None:
    mail = prepared(tmp_path / "mail", labels=("a", "b", "c"))
    shifted = prepared(tmp_path / "shifted", labels=("c", "a"))
    assert check_labels(recipe(), {"mail": mail, "shifted": shifted}) == ("a", "b", "c")


def test_a_label_that_training_never_sees_fails(tmp_path: Path) -> None:
    mail, shifted = prepared(tmp_path / "mail"), prepared(tmp_path / "shifted", labels=("a", "x", "y"))
    with pytest.raises(DataError, match=r"evaluations\.ood: labels that training never sees: x, y; training has a, b"):
        check_labels(recipe(), {"mail": mail, "shifted": shifted})


def test_a_label_to_keep_that_training_never_sees_fails(tmp_path: Path) -> None:
    whole = recipe().model_dump(mode="json")
    keeping = {**whole["phases"][0], "name": "keep", "penalty": {"kind": "ewc", "datasets": ["shifted"]}}
    kept = Recipe.model_validate({**whole, "phases": [whole["phases"][0], keeping]})
    rows = {split: tiny_rows(6, ("a", "b")) for split in ("validation", "test")}
    shifted = prepared(tmp_path / "shifted", {**rows, "train": tiny_rows(6, ("a", "x"))})
    both = {"mail": prepared(tmp_path / "mail"), "shifted": shifted}
    assert check_labels(recipe(), both) == ("a", "b")
    with pytest.raises(DataError, match=r"phases\[keep\]\.penalty\.datasets: 'shifted': labels that training never se"):
        check_labels(kept, both)


@pytest.mark.parametrize(
    ("metric", "one_label", "other_label"),
    [
        ({"kind": "auroc"}, "there is no label that some rows have", "there is no label that some rows have"),
        ({"kind": "mcc"}, "all rows have the same label", "all rows have the same label"),
        ({"kind": "f1", "label": "a"}, None, "no row has the label 'a'"),
        ({"kind": "recall", "label": "a"}, None, "no row has the label 'a'"),
        ({"kind": "macro_f1"}, None, None),
        ({"kind": "accuracy"}, None, None),
    ],
)
def test_a_rule_by_what_its_rows_cannot_define_fails_before_training(
    tmp_path: Path, metric: dict[str, str], one_label: str | None, other_label: str | None
) -> None:
    of = recipe().model_dump(mode="json")
    of["evaluations"]["ood"]["metrics"] = [metric]
    name = f"ood/{metric['kind']}" + (f":{metric['label']}" if "label" in metric else "")
    best = Recipe.model_validate({**of, "select": {"by": name}})
    fixed = best.model_copy(update={"select": Select(rule="fixed", alpha=1.0, by=name)})
    for ours in (best, fixed):
        for label, said in (("a", one_label), ("b", other_label)):
            one = [row for row in tiny_rows(12, ("a", "b")) if row["label"] == label]
            rows = {"validation": one, "test": tiny_rows(6, ("a", "b"))}
            both = {"mail": prepared(tmp_path / "mail"), "shifted": prepared(tmp_path / label, rows)}
            check_rule(ours, {**both, "shifted": prepared(tmp_path / f"both-{label}")})
            if said is None or ours is fixed:
                check_rule(ours, both)
                continue
            with pytest.raises(DataError) as refused:
                check_rule(ours, both)
            start = f"select: {name!r} is undefined on the 6 validation rows of evaluation 'ood': {said}"
            assert str(refused.value).startswith(start)


def test_datasets_that_spell_labels_otherwise_have_the_same_ones(tmp_path: Path) -> None:
    mail = prepared(tmp_path / "mail", labels=("False", "True", "c"))
    shifted = prepared(tmp_path / "shifted", labels=("true", "c"))
    both = {"mail": mail, "shifted": shifted}
    assert check_labels(recipe(), both) == ("False", "True", "c")
    assert spelling_notes(both, ("False", "True", "c")) == (
        "label 'True' is also written 'true' (9 rows of shifted): one label, published as 'True'",
    )
    # A version that is to be replaced keeps its names and their order; what made two labels of one keeps neither.
    assert check_labels(recipe(), both, ("true", "c", "false")) == ("true", "c", "false")
    assert check_labels(recipe(), both, ("False", "True", "c", "false", "true")) == ("False", "True", "c")
    counted = mail.model_copy(update={"spellings": {"True": {"True": 2, "true": 9, "tr\u00adue": 1}}})
    assert check_labels(recipe(), {"mail": counted, "shifted": shifted}) == ("False", "c", "true")
    (note,) = spelling_notes({"mail": counted}, ("False", "c", "true"))
    assert "'True' (2 rows of mail), 'tr\\xadue' (1 row of mail): one label, published as 'true'" in note


def test_labels_with_fewer_rows_than_their_dataset_has_splits_are_named(tmp_path: Path) -> None:
    rows = {split: tiny_rows(6, ("a", "b")) for split in ("train", "validation", "test")}
    for split, label in (("train", "once"), ("train", "twice"), ("test", "twice"), ("train", "two"), ("train", "two")):
        rows[split].append({"text": f"a word of its own {len(rows[split])}", "label": label})
    both = {"mail": prepared(tmp_path / "mail", rows), "shifted": prepared(tmp_path / "shifted", rows)}
    assert rare_label_notes(recipe(), both) == (
        "3 labels of dataset 'mail' cannot be in each of train, validation, test, for lack of rows: 'once' has 1, "
        "'twice' has 2, 'two' has 2; add rows, map these labels to others, or set "
        "datasets.mail.limits.rows_per_label, which refuses them",
    )
    # A dataset whose held-out rows are another's has one split; there a single row is enough.
    alone = prepared(tmp_path / "alone", {"train": rows["train"]})
    assert rare_label_notes(recipe(), {**both, "mail": alone}) == ()
    assert rare_label_notes(recipe(), {**both, "mail": prepared(tmp_path / "plain")}) == ()


def test_a_label_only_held_out_of_its_own_dataset_fails(tmp_path: Path) -> None:
    rows = {"train": tiny_rows(6, ("a", "b")), "validation": tiny_rows(3, ("a", "b", "c")), "test": tiny_rows(6)}
    mail = prepared(tmp_path / "mail", {**rows, "test": tiny_rows(6, ("a", "b"))})
    with pytest.raises(DataError, match=r"evaluations\.id: .*never sees: c"):
        check_labels(recipe(), {"mail": mail, "shifted": prepared(tmp_path / "shifted")})


@pytest.mark.parametrize(("empty", "use"), [("validation", "selection"), ("test", "the report")])
def test_an_evaluation_without_rows_fails(tmp_path: Path, empty: str, use: str) -> None:
    rows = {split: tiny_rows(6, ("a", "b")) for split in ("train", "validation", "test") if split != empty}
    prepared_both = {"mail": prepared(tmp_path / "mail"), "shifted": prepared(tmp_path / "shifted", rows)}
    with pytest.raises(
        DataError, match=f"evaluations.ood: dataset 'shifted' has no {empty} rows, but {use} is measured"
    ):
        check_labels(recipe(), prepared_both)


def test_a_part_with_nothing_to_learn_from_is_named(tmp_path: Path) -> None:
    def mixed(**weights: float) -> Recipe:
        (phase,) = recipe().phases
        return recipe().model_copy(update={"phases": (phase.model_copy(update={"dataset": None, "mixture": weights}),)})

    rows = {split: tiny_rows(6, ("a", "b")) for split in ("validation", "test")}
    data = {"mail": prepared(tmp_path / "mail"), "shifted": prepared(tmp_path / "bare", {"train": [], **rows})}
    check_parts(mixed(mail=1.0, shifted=0.0), data)
    with pytest.raises(
        DataError, match=r"^phases\[tune\]: dataset 'shifted' has no training rows; give it more, or leave"
    ):
        check_parts(mixed(mail=1.0, shifted=0.5), data)
    mail = data["mail"]
    untaught = mail.splits["train"].model_copy(update={"supervised": 0})
    mail = mail.model_copy(update={"splits": {**mail.splits, "train": untaught}})
    with pytest.raises(DataError, match=r"^phases\[tune\]: dataset 'mail' has 6 training rows with nothing to learn; "):
        check_parts(mixed(mail=1.0), {"mail": mail})


def test_training_rows_of_one_class_are_refused(tmp_path: Path) -> None:
    rows = {split: [{"text": "x", "label": "only"}] for split in ("train", "validation", "test")}
    both = {name: prepared(tmp_path / name, rows) for name in ("mail", "shifted")}
    with pytest.raises(DataError, match=r"training rows have 1 label \(only\)"):
        check_labels(recipe(), both)


def test_language_modelling_has_no_labels(tmp_path: Path) -> None:
    both = {name: prepared(tmp_path / name, labeled=False) for name in ("mail", "shifted")}
    assert check_labels(recipe(labeled=False), both) == ()


def test_a_registry_that_cannot_be_published_to_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    whole = recipe()

    def publishing_to(path: Path) -> Recipe:
        return whole.model_copy(update={"publish": Publish(name="r", to=Folder(path=str(path)))})

    broken = publishing_to(tmp_path / "file" / "registry")
    with pytest.raises(StorageError, match=r"publish\.to: nothing can be published to the registry .*registry"):
        check_registry(broken, Workspace(tmp_path / "work"))
    check_registry(publishing_to(tmp_path / "registry"), Workspace(tmp_path / "work"))


def test_a_registry_in_a_work_place_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish = Publish(name="r", to=Folder(path=str(tmp_path / "place")))
    there = recipe().model_copy(update={"publish": publish})
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "place.json").write_text("{}")
    with pytest.raises(StorageError, match=r"publish\.to: .*place is a work place, too"):
        check_registry(there, Workspace(tmp_path / "work"))
    (tmp_path / "place" / "place.json").unlink()
    monkeypatch.setattr(Workspace, "store", LocalStore(tmp_path / "place"))
    with pytest.raises(RecipeError, match=r"publish\.to: .*place is the work place of this run"):
        check_registry(there, Workspace(tmp_path / "work"))


def test_a_key_that_cannot_sign_is_found_first(tmp_path: Path) -> None:
    signed = recipe().publish.model_copy(update={"sign_with": str(tmp_path / "absent.pem")})
    with pytest.raises(RecipeError, match=r"absent\.pem is no private key in a PEM file"):
        check_registry(recipe().model_copy(update={"publish": signed}), Workspace(tmp_path / "work"))
