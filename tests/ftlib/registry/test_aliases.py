"""An alias moves for one of any number of movers, and the others learn who it was."""

import hashlib
import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ftlib.registry.registry as registry_module
from ftlib.errors import ConflictError, IntegrityError, RecipeError, StorageError, TransientError
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.storage import LocalStore, Place, Store, open_store
from tests.ftlib.registry.kit import Dying, child, copy, exit_code, publish, stored

LOST = 3
"""A promoter's exit code when somebody else was faster."""


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions of m."""
    store = LocalStore(folder := tmp_path_factory.mktemp("three"))
    for key in "abc":
        publish(store, tmp_path_factory.mktemp("staging"), key, {"a": key})
    return folder


@pytest.fixture
def registry(three_versions: Path, store: Store) -> ModelRegistry:
    copy(three_versions, store)
    return ModelRegistry(store)


def move(registry: ModelRegistry, version: int, expected: int | None, who: str = "ann", why: str = "better"):
    return registry.promote("m", CHAMPION, version, expected, who, why)


class TestPromote:
    def test_it_is_what_the_alias_means(self, registry: ModelRegistry):
        assert registry.alias("m", CHAMPION) is None
        first = move(registry, 1, None)
        assert (first.sequence, first.version, first.previous, first.who, first.why) == (1, 1, None, "ann", "better")
        second = move(registry, 3, first.sequence, "bob", "fresh rows")
        assert registry.alias("m", CHAMPION) == second
        assert registry.history("m", CHAMPION) == [first, second]
        assert registry.resolve("m@champion") == registry.resolve("m@3")
        assert registry.aliases("m") == [CHAMPION]

    def test_the_log_is_a_chain_that_sha256sum_can_follow(self, registry: ModelRegistry, store: Store):
        for sequence, version in enumerate([1, 2, 1]):
            move(registry, version, sequence or None)
        data = [store.read(f"models/m/aliases/champion/{n:08d}.json") or b"" for n in (1, 2, 3)]
        assert [json.loads(entry)["previous"] for entry in data] == [
            None,
            *(hashlib.sha256(entry).hexdigest() for entry in data[:2]),
        ]

    def test_what_holds_already_is_left_alone(self, registry: ModelRegistry):
        first = move(registry, 2, None)
        for expected in (None, 1, 7):
            assert move(registry, 2, expected, "bob") == first
        assert len(registry.history("m", CHAMPION)) == 1

    @pytest.mark.parametrize("expected", [None, 1, 3])
    def test_a_decision_against_something_else_is_told_who_won(self, registry: ModelRegistry, expected: int | None):
        move(registry, 1, None)
        move(registry, 2, 1, "bob", "fewer errors")
        with pytest.raises(ConflictError, match=r"entry 2 bob moved it to version 2 at .* \(fewer errors\)"):
            move(registry, 3, expected)
        assert registry.resolve("m@champion").version == 2

    def test_an_alias_that_was_never_set_is_not_what_was_expected(self, registry: ModelRegistry):
        with pytest.raises(ConflictError, match="against entry 4, but it was never set"):
            move(registry, 3, 4)

    def test_a_version_that_is_not_there(self, registry: ModelRegistry):
        with pytest.raises(StorageError, match="has no m@4; the versions are 1-3"):
            move(registry, 4, None)
        assert registry.alias("m", CHAMPION) is None

    @pytest.mark.parametrize("alias", ["", "3", "latest", "v3", "Champion", "../x", "a b", "a" * 64])
    def test_aliases_that_mean_something_else(self, registry: ModelRegistry, alias: str):
        with pytest.raises(RecipeError, match="alias"):
            registry.promote("m", alias, 1, None, "ann", "")

    def test_an_alias_that_is_not_there_is_named_with_those_that_are(self, registry: ModelRegistry):
        move(registry, 1, None)
        with pytest.raises(StorageError, match="no alias m@canary; its aliases are champion"):
            registry.resolve("m@canary")
        with pytest.raises(StorageError, match=r"its aliases are champion; did you mean 'champion'\?$"):
            registry.resolve("m@champoin")
        with pytest.raises(StorageError, match="no model 'n'"):
            registry.resolve("n@champion")

    def test_a_store_that_ignores_the_condition_is_refused(self, tmp_path: Path):
        publish(LocalStore(tmp_path / "r"), tmp_path, "a", {"a": "a"})

        class Ignores(LocalStore):
            def create(self, path: str, data: bytes) -> bool:
                super().discard(path)
                super().create(path, data)
                return True

        with pytest.raises(StorageError, match="writers create the same object"):
            move(ModelRegistry(Ignores(tmp_path / "r")), 1, None)
        assert ModelRegistry(LocalStore(tmp_path / "r")).alias("m", CHAMPION) is None


class TestRollback:
    def test_the_version_that_was_in_place_before(self, registry: ModelRegistry):
        for sequence, version in enumerate([1, 2, 3]):
            move(registry, version, sequence or None)
        back = registry.rollback("m", CHAMPION, 3, "ann", "complaints")
        assert (back.version, back.sequence, back.why) == (2, 4, "complaints")
        assert registry.rollback("m", CHAMPION, 4, "ann", "still", to=1).version == 1
        assert [entry.version for entry in registry.history("m", CHAMPION)] == [1, 2, 3, 2, 1]

    def test_what_a_rollback_took_away_is_not_gone_back_to(self, registry: ModelRegistry):
        for sequence, version in enumerate([1, 2, 3]):
            move(registry, version, sequence or None)
        assert [registry.rollback("m", CHAMPION, n, "ann", "").version for n in (3, 4)] == [2, 1]
        released = move(registry, 1, 5, "ann", "this one stays")
        for by in ("person", "rule"):
            with pytest.raises(
                StorageError, match=r"version 1, and what else it meant \(2-3\) was rolled back; .*--to"
            ):
                registry.rollback("m", CHAMPION, released.sequence, "monitor", "errors", by=by)
        assert registry.rollback("m", CHAMPION, 6, "ann", "2 after all", to=2).version == 2
        assert registry.rollback("m", CHAMPION, 7, "ann", "no").version == 1

    def test_a_version_that_was_promoted_again_counts_again(self, registry: ModelRegistry):
        move(registry, 1, None)
        move(registry, 2, 1)
        registry.rollback("m", CHAMPION, 2, "monitor", "errors", by="rule")
        move(registry, 2, 3, "ann", "2 is good")
        move(registry, 1, 4, "ann", "and yet")
        assert registry.rollback("m", CHAMPION, 5, "ann", "").version == 2
        move(registry, 3, 6)
        assert registry.rollback("m", CHAMPION, 7, "monitor", "errors", by="rule").version == 2

    def test_the_same_rollback_again_changes_nothing(self, registry: ModelRegistry):
        """As after a kill between the move and the word of it: the decision was against the same entry."""
        move(registry, 1, None)
        move(registry, 2, 1)
        back = registry.rollback("m", CHAMPION, 2, "ann", "")
        assert registry.rollback("m", CHAMPION, 2, "ann", "") == back

    def test_nothing_to_go_back_to(self, registry: ModelRegistry):
        with pytest.raises(StorageError, match="was not set, so there is nothing to roll back"):
            registry.rollback("m", CHAMPION, None, "ann", "")
        move(registry, 2, None)
        with pytest.raises(StorageError, match="only ever meant version 2"):
            registry.rollback("m", CHAMPION, 1, "ann", "")
        with pytest.raises(StorageError, match="never meant version 3, only 2; promote it instead"):
            registry.rollback("m", CHAMPION, 1, "ann", "", to=3)

    def test_a_rollback_that_was_too_late(self, registry: ModelRegistry):
        for sequence, version in enumerate([1, 2, 3]):
            move(registry, version, sequence or None, "bob")
        with pytest.raises(ConflictError, match="by entry 3 bob moved it to version 3"):
            registry.rollback("m", CHAMPION, 2, "ann", "2 is bad")


class TestHold:
    """What promotes by rule asks whether a person has gone back, and nobody promoted since."""

    def test_a_person_s_rollback_holds_until_a_person_promotes(self, registry: ModelRegistry):
        assert registry.hold("m", CHAMPION) is None
        move(registry, 1, None)
        move(registry, 2, 1)
        assert registry.hold("m", CHAMPION) is None
        back = registry.rollback("m", CHAMPION, 2, "ann", "complaints")
        assert registry.hold("m", CHAMPION) == back
        again = registry.rollback("m", CHAMPION, 3, "bob", "still", to=2)
        assert registry.hold("m", CHAMPION) == again
        released = registry.promote("m", CHAMPION, 2, 4, "ann", "2 stays")  # in place already, and yet an entry
        assert (released.sequence, released.version, registry.hold("m", CHAMPION)) == (5, 2, None)
        assert registry.promote("m", CHAMPION, 2, 4, "ann", "2 stays") == released  # its reply was lost

    def test_a_rollback_by_rule_neither_begins_nor_ends_one(self, registry: ModelRegistry):
        for sequence, version in enumerate([1, 2, 3]):
            move(registry, version, sequence or None)
        registry.rollback("m", CHAMPION, 3, "monitor", "errors", by="rule")
        assert registry.hold("m", CHAMPION) is None
        back = registry.rollback("m", CHAMPION, 4, "ann", "worse", to=1)
        registry.rollback("m", CHAMPION, 5, "monitor", "errors", to=2, by="rule")
        assert registry.hold("m", CHAMPION) == back

    @pytest.mark.parametrize("expected", [3, 2], ids=["after it", "before it was quicker"])
    def test_a_person_who_goes_back_to_where_a_rule_went_holds_it(self, registry: ModelRegistry, expected: int):
        move(registry, 1, None)
        move(registry, 2, 1)
        registry.rollback("m", CHAMPION, 2, "monitor", "errors", by="rule")
        back = registry.rollback("m", CHAMPION, expected, "ann", "complaints", to=1)
        assert (back.sequence, back.version, registry.hold("m", CHAMPION)) == (4, 1, back)
        assert registry.rollback("m", CHAMPION, expected, "ann", "complaints", to=1) == back

    def test_who_decided_before_the_rollback_does_not_end_it(self, registry: ModelRegistry):
        move(registry, 1, None)
        move(registry, 2, 1)
        back = registry.rollback("m", CHAMPION, 2, "ann", "complaints")
        with pytest.raises(ConflictError, match="by entry 3 ann moved it to version 1"):
            registry.promote("m", CHAMPION, 1, 1, "bob", "decided against entry 1")
        assert registry.hold("m", CHAMPION) == back

    def test_a_promotion_is_written_as_earlier_releases_read_it(self, registry: ModelRegistry, store: Store):
        move(registry, 1, None)
        move(registry, 2, 1)
        registry.rollback("m", CHAMPION, 2, "ann", "")
        told = [b"rolled_back" in (store.read(f"models/m/aliases/champion/{n:08d}.json") or b"") for n in (1, 2, 3)]
        assert told == [False, False, True]


class TestDamage:
    def test_an_entry_copied_by_hand_is_refused(self, registry: ModelRegistry, store: Store):
        move(registry, 1, None)
        store.create(
            "models/m/aliases/champion/00000002.json", store.read("models/m/aliases/champion/00000001.json") or b""
        )
        with pytest.raises(IntegrityError, match="says it is m@champion entry 1"):
            registry.alias("m", CHAMPION)

    def test_an_entry_that_is_none(self, registry: ModelRegistry, store: Store):
        store.create("models/m/aliases/champion/00000001.json", b'{"version": 1}')
        with pytest.raises(IntegrityError, match="other bytes than were written"):
            registry.resolve("m@champion")


class TestLostReplies:
    def test_our_own_entry_is_recognised(self, registry: ModelRegistry, store: Store):
        class Lost:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                store.create(path, data)
                return False

        entry = ModelRegistry(Lost()).promote("m", CHAMPION, 2, None, "ann", "")
        assert registry.history("m", CHAMPION) == [entry]

    def test_a_store_that_refuses_and_shows_nothing(self, registry: ModelRegistry, store: Store):
        class Refuses:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                return "aliases" not in path and store.create(path, data)

        with pytest.raises(TransientError, match="run again"):
            ModelRegistry(Refuses()).promote("m", CHAMPION, 2, None, "ann", "")


def test_of_racing_promoters_one_wins_each_round(registry: ModelRegistry, store: Store, s3_endpoint: str, tmp_path):
    """Processes of their own; each knows the entry it decided against, so exactly one can be right."""
    for key in "def":
        publish(store, tmp_path, key, {"a": key})

    def promote(who: int, expected: int | None) -> None:
        try:
            ours = ModelRegistry(open_store(Place.parse(store.uri, s3_endpoint)))
            ours.promote("m", CHAMPION, who, expected, f"mover {who}", "")
        except ConflictError:
            os._exit(LOST)

    expected: int | None = None
    last = 0
    for _ in range(3):
        movers = [who for who in range(1, 7) if who != last]
        children = {who: child(lambda who=who, seen=expected: promote(who, seen)) for who in movers}
        codes = {who: exit_code(pid) for who, pid in children.items()}
        entry = registry.alias("m", CHAMPION)
        assert entry
        assert sorted(codes.values()) == [0] + [LOST] * (len(movers) - 1)
        assert codes[entry.version] == 0
        assert entry.who == f"mover {entry.version}"
        expected, last = entry.sequence, entry.version
    assert [entry.sequence for entry in registry.history("m", CHAMPION)] == [1, 2, 3]


def test_racing_movers_to_one_version_agree(registry: ModelRegistry):
    with ThreadPoolExecutor(6) as pool:
        entries = list(pool.map(lambda who: move(registry, 2, None, f"mover {who}"), range(6)))
    assert {entry.sequence for entry in entries} == {1}


def test_kill_at_every_call_then_promote_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry_module, "probe", lambda _: None)  # its writers race, so its calls have no order
    for point in itertools.count():
        store = LocalStore(tmp_path / f"r{point}")
        for key in "ab":
            publish(store, tmp_path, f"{key}{point}", {"a": key})
        first = move(ModelRegistry(store), 1, None)
        dying = ModelRegistry(Dying(store, point))
        code = exit_code(child(lambda opened=dying: move(opened, 2, 1) and None))
        whole = ModelRegistry(store).history("m", CHAMPION)
        assert whole[0] == first
        assert [entry.version for entry in whole] in ([1], [1, 2])
        again = move(ModelRegistry(store), 2, 1)
        assert (again.sequence, again.version) == (2, 2)
        assert len(stored(store, "models/m/aliases")) == 2
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert point >= 10
