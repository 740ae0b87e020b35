"""One move of an alias, as both fronts make it."""

from pathlib import Path

import pytest

from flows.retraining.alias_move import AliasMove
from ftlib.errors import ConflictError, StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore


@pytest.fixture
def opened(tmp_path: Path) -> ModelRegistry:
    """Three versions of one model."""
    made = ModelRegistry(LocalStore(tmp_path / "registry"))
    for n in (1, 2, 3):
        (tmp_path / "weights").write_text(str(n))
        manifest = Manifest(name="demo", description="", files=(file_of(tmp_path, "weights"),), metrics={}, lineage={})
        made.publish(manifest, tmp_path, str(n), lambda _: None, tmp_path)
    return made


def moved(move: AliasMove) -> str:
    return move.outcome(move.make("ann", "why"))


def test_a_move_says_what_it_would_do_and_what_it_did(opened: ModelRegistry) -> None:
    first = AliasMove.promotion(opened, "demo", "champion", 1)
    assert first.proposal() == "nothing moved: demo@champion is not set; approve to let it mean version 1"
    assert opened.aliases("demo") == []
    assert moved(first) == "demo@champion is now version 1, entry 1"
    assert moved(AliasMove.promotion(opened, "demo", "champion", 3)) == (
        "demo@champion is now version 3 (before: version 1), entry 2"
    )
    again = AliasMove.promotion(opened, "demo", "champion", 3)
    assert moved(again) == "demo@champion was already version 3, entry 2"
    back = AliasMove.rollback(opened, "demo", "champion")
    assert (back.version, back.against) == (1, 2)
    assert back.proposal() == (
        "nothing moved: demo@champion means version 3 (entry 2); approve to let it mean version 1"
    )
    assert moved(back) == (
        "demo@champion is now version 1 (before: version 3), entry 3; no retraining promotes until a person does"
    )
    over = AliasMove.promotion(opened, "demo", "champion", 1)
    assert moved(over).endswith("is still version 1, entry 4; retrainings may promote again")
    assert moved(AliasMove.rollback(opened, "demo", "champion", to=3)).startswith("demo@champion is now version 3")


def test_a_decision_that_came_too_late_moves_nothing(opened: ModelRegistry) -> None:
    moved(AliasMove.promotion(opened, "demo", "champion", 1))
    decided = AliasMove.promotion(opened, "demo", "champion", 3)
    moved(AliasMove.promotion(opened, "demo", "champion", 2))
    for late in (
        decided,
        AliasMove.promotion(opened, "demo", "champion", 3, expected=1),
        AliasMove.promotion(opened, "demo", "champion", 3, expected=0),
    ):
        with pytest.raises(ConflictError, match="ann moved it to version 2"):
            late.make("bob", "")
    assert [entry.version for entry in opened.history("demo", "champion")] == [1, 2]


def test_what_cannot_be_moved_is_named(opened: ModelRegistry) -> None:
    with pytest.raises(StorageError, match=r"demo@live was never set; demo has the aliases none"):
        AliasMove.rollback(opened, "demo", "live")
    with pytest.raises(StorageError, match=r"has no demo@9; the versions are 1-3"):
        AliasMove.promotion(opened, "demo", "live", 9)
    moved(AliasMove.promotion(opened, "demo", "live", 2))
    with pytest.raises(
        StorageError, match=r"demo@lvie was never set; demo has the aliases live; did you mean 'live'\?$"
    ):
        AliasMove.rollback(opened, "demo", "lvie")
    with pytest.raises(StorageError, match="never meant version 3, only 2; promote it instead"):
        AliasMove.rollback(opened, "demo", "live", to=3)
    with pytest.raises(StorageError, match="only ever meant version 2"):
        AliasMove.rollback(opened, "demo", "live")
