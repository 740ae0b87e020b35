"""What a retraining sees of its sources: the listing as it was when the run began, and what is new in it."""

from collections.abc import Mapping
from pathlib import Path

from flows.retraining.champion import InPlace
from flows.run.values import Data
from ftlib.config import Config
from ftlib.data.assignment import profile_rows
from ftlib.data.listed import FileVersion
from ftlib.data.sources.pins import pin
from ftlib.published.lineage import compare_rows
from ftlib.published.row_index import rows_from
from ftlib.recipe.recipe import Recipe
from ftlib.retraining.decisions import News
from ftlib.retraining.drift import drift
from ftlib.retraining.file_ledger import Changes, Decision, FileLedger, check_vanished, compare, fresh_places
from ftlib.retraining.training_rows import UsedRows
from ftlib.storage.store import Store
from ftlib.workspace import Workspace, add


class Seen(Config):
    """One source as the run found it."""

    changes: Changes
    sequence: int
    """The ledger's last entry, which `changes` was compared with."""


class Listing(Config):
    """All training sources of a run. Frozen: a run that is suspended for days goes on with what it saw first."""

    seen: dict[str, Seen]

    @property
    def changes(self) -> dict[str, Changes]:
        """Return what is new, by dataset."""
        return {name: seen.changes for name, seen in self.seen.items()}

    def record(self, store: Store, r: Recipe, decision: Decision, run: str) -> bool:
        """Enter a run's decision in every ledger; False if another retraining has considered these files meanwhile.

        A run that is tried again finds its own entry, and that is none of another.
        """
        entered = [
            FileLedger(store, r.publish.name, name).append(seen.changes, decision, seen.sequence, run)
            for name, seen in self.seen.items()
        ]
        return all(entered)


def list_sources(r: Recipe, store: Store, work: Workspace, where: str) -> Listing:
    """Compare every training source with the ledger, or read what this run saw before, on whatever machine.

    Raises DataError if too many known files are gone.
    """
    if (path := work.shared(where)).is_file():
        return Listing.model_validate_json(path.read_bytes())
    seen: dict[str, Seen] = {}
    for name in r.training_datasets():
        dataset = r.datasets[name]
        state = FileLedger(store, r.publish.name, name).state()
        changes = compare(state, dataset.source.list())
        check_vanished(changes, dataset.limits.vanished, f"datasets.{name}")
        seen[name] = Seen(changes=changes, sequence=state.sequence)
    listing = Listing(seen=seen)
    add(work, where, listing.model_dump_json().encode())
    return listing


def pinned(r: Recipe, listing: Listing, work: Workspace) -> dict[str, tuple[FileVersion, ...]]:
    """Freeze the bytes: files that are perhaps still being written are left out."""
    return {
        name: pin(dataset.source, work, [*listed.unchanged, *listed.fresh])
        if (listed := listing.changes.get(name))
        else pin(dataset.source, work)
        for name, dataset in r.datasets.items()
    }


def used_rows(
    r: Recipe, listing: Listing, files: Mapping[str, tuple[FileVersion, ...]], champion: InPlace | None
) -> dict[str, UsedRows]:
    """Say which training rows are used, by dataset; without a champion every row is fresh, and all of them are.

    Fresh is also what a challenger that was refused has seen: the champion never read it.
    """
    if champion is None or not r.retrain.rows.leaves_out:
        return {}
    fresh = {name: {file.uri for file in changes.fresh} for name, changes in listing.changes.items()}
    read = {name: champion.has_read(name) for name in fresh}

    def unseen(name: str, file: FileVersion) -> bool:
        return file.uri in fresh[name] or file.sha256 not in read[name]

    return {
        name: UsedRows(rows=r.retrain.rows, fresh=tuple(sorted(f.sha256 for f in files[name] if unseen(name, f))))
        for name in fresh
    }


def news(r: Recipe, listing: Listing, data: Data, champion: InPlace | None, folder: Path | None) -> dict[str, News]:
    """Count what is new against the champion's rows, pulled to `folder`, and compare it with them."""
    by_dataset: dict[str, News] = {}
    for name, changes in listing.changes.items():
        raw, places = data.raw[name], fresh_places(data.raw[name], changes)
        trained_rows = champion.rows(name, folder) if champion and folder else None
        rows, gone = len(rows_from(raw, places)), None
        if champion and trained_rows is not None:
            unread = {number for number in places if raw.files[number].sha256 not in champion.has_read(name)}
            rows, gone = compare_rows(raw, data.prepared[name], unread, trained_rows)
        now = profile_rows(raw, r.datasets[name], places)
        drifts = drift(champion.profile(name), now, r.retrain.drift) if champion else ()
        by_dataset[name] = News(changes=changes, fresh_rows=rows, gone_rows=gone, drifts=drifts)
    return by_dataset
