"""Clear away every trace that rows have left in a work folder, and keep them from coming back.

Looked for are the rows whose key is asked for, in every snapshot; then, by their ids, all that was made of them. What
has a trace is deleted whole: a stage's output is content-addressed, and is made again without the row if somebody asks
for it. Kept are the digests that a version has: its weights may know the row, and only a retraining unlearns it.

The order makes it safe to be killed: the request is written first, and from then on no ingestion takes such a row;
snapshots go last, since the rest is found by them. Nobody may be in the folder meanwhile: a run that goes on could
read what is deleted, or write what was just cleared. Run again, it finishes what is left.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from ftlib.config import Config
from ftlib.data.datasets import RawDataset
from ftlib.data.forgotten import FOLDER, ForgetRequest, digest_of_key, read_requests, write_request
from ftlib.data.row_keys import keys_in, row_key
from ftlib.data.snapshot import read_column, read_snapshot
from ftlib.errors import BusyError, RecipeError, StorageError
from ftlib.published.row_search import Holding, Holdings, Wanted, find_rows
from ftlib.published.trace_search import Search
from ftlib.registry.reading import RegistryReader
from ftlib.storage.files import flush_folder, local_errors
from ftlib.wording import counted, some
from ftlib.work_collection import CACHED, SHARED, alone_in, discard, size_of
from ftlib.workspace import RECORD, Workspace, add, exclusive, read_record

Kind = Literal["snapshot", "rows", "table", "page or log", "cached version", "half-made"]
ROWS_BEFORE_RECORD = ("ingest", "preprocess", "quote", "answer", "revise", "score")
"""Stages whose killed attempts may hold rows in no form that can be searched."""
WHOLE = ("champions", "bases", "versions", "plans")


class Trace(Config):
    """Something that a row left, and that is deleted whole."""

    path: str
    """Below the work folder, or below the user's cache."""
    kind: Kind
    bytes: int


class Erasure(Config):
    """What there is of the rows, what was deleted, and what could not be."""

    folder: str
    acted: bool
    """Whether it was deleted, or only looked for."""
    keys: int
    absent: tuple[str, ...]
    """Keys that no snapshot here has a row of; what was asked for, as it was asked for."""
    rows: int
    """Rows that have one of the keys, however many snapshots they are in."""
    traces: tuple[Trace, ...]
    in_use: tuple[str, ...] = ()
    """Processes that are in the folder: nothing was deleted yet."""
    learnt: tuple[Holding, ...] = ()
    """Versions that the rows went into."""
    not_known: tuple[str, ...] = ()
    """Versions, or registries, that could not be asked, each with the reason."""
    unreached: tuple[str, ...] = ()
    """Where else the rows may lie, which nobody can reach from here, each with the remedy."""
    certificate: str | None = None

    @property
    def remaining(self) -> list[str]:
        """Say what is not cleared away here, whatever was deleted."""
        versions = sorted({holding.version for holding in self.learnt})
        return [
            *(f"version {name}: its weights may know the row, and its row index has its digest" for name in versions),
            *self.not_known,
            *self.unreached,
            "sources: delete the row there, too; ingestion leaves it out meanwhile",
            "checkpoints that were trained on it, until `reglage work gc` collects them: they hold no row, but may "
            "know one",
            "backups, copies of the folder, exported models, and pages and logs kept elsewhere (Prefect, MLflow)",
        ]


@dataclass(frozen=True)
class Eraser:
    """Forgets the rows of some keys in a work folder; `dataset` says whose keys they are, else every dataset's."""

    root: Path
    keys: tuple[str, ...]
    dataset: str | None = None
    by: str = "somebody"
    cache: Path | None = None
    """The user's cache of pulled versions, which may quote rows, too."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def erase(
        self, registries: Sequence[RegistryReader] = (), *, delete: bool = False, not_known: Sequence[str] = ()
    ) -> Erasure:
        """Look for traces and, with `delete`, clear them away; without it nothing is written.

        `registries` are asked which versions the rows went into. Raises StorageError if there is no such folder,
        RecipeError for what is no key or a dataset whose rows have none, BusyError if another process forgets.
        """
        if not (self.root / "stages").is_dir():
            raise StorageError(f"{self.root} is no work folder: it has no stages/; give the one that runs were given")
        digests = digests_of(self.keys)
        if not delete:
            return self.look(digests, registries, not_known)[0]
        with exclusive(self.root / FOLDER / "forget.lock", wait=False):
            found, search = self.look(digests, registries, not_known)
            request = request_of(digests, search, found.learnt, self.dataset, self.by, self.clock())
            write_request(Workspace(self.root), request)
            with local_errors(self.root), alone_in(self.root) as users:
                if users:
                    return found.model_copy(update={"in_use": users})
                # Who was in the folder while we looked may have written since, and nobody can any more.
                again, _ = self.look(digests, registries, not_known)
                self._clear(again.traces)
            done = again.model_copy(update={"acted": True, "absent": found.absent})
            return certify(Workspace(self.root), done, request, self.by, self.clock())

    def look(
        self, digests: Mapping[str, str], registries: Sequence[RegistryReader], not_known: Sequence[str]
    ) -> tuple[Erasure, Search]:
        """Return all that is there of the rows, in the order in which it is deleted, and what it was found by."""
        search = Search()
        asked = digests.keys()
        earlier = [one for one in read_requests(Workspace(self.root)) if self._meant(one.dataset)]
        for one in earlier:
            for key in asked & one.keys.keys():
                search.rows[key] |= {*one.keys[key]}
        with local_errors(self.root):
            texts = {str(row_key(key)): one for one, key in digests.items()}
            seen, snapshots = self._snapshots(texts, search)
            traces = [*self._below_runs(search), *self._shared(search), *self._cached(search)]
            outputs = [*self._outputs(search)]
            known = {trace.path for trace in traces}
            traces += [page for page in self._pages_of([*outputs, *snapshots]) if page.path not in known]
        known_keys = seen | {key for one in earlier for key in one.keys}
        learnt, unasked = self._learnt(registries, [*digests.values(), *sorted(search.pairs)])
        ordered = {trace.path: trace for trace in (*traces, *outputs, *snapshots)}
        erasure = Erasure(
            folder=str(self.root), acted=False, keys=len(digests), rows=len(search.ids), traces=tuple(ordered.values()),
            absent=tuple(sorted(digests[one] for one in asked - known_keys)),
            learnt=learnt, not_known=(*not_known, *unasked),
        )  # fmt: skip
        return erasure, search

    def _meant(self, dataset: str | None) -> bool:
        return self.dataset is None or dataset is None or dataset == self.dataset

    def _snapshots(self, asked: Mapping[str, str], search: Search) -> tuple[set[str], list[Trace]]:
        """Read every snapshot's keys; return which keys there are, and the snapshots with such a row."""
        seen: set[str] = set()
        traces: list[Trace] = []
        keyed, named = self._key_columns()
        for folder, columns in keyed.items():
            rows = _rows_with(folder, columns, asked, search)
            hits = rows.keys() | _quarantined(folder, {*asked.values()})
            seen |= hits
            if hits:
                traces.append(self._trace(folder, "snapshot"))
            for key, of_key in rows.items():
                search.rows[key] |= of_key
            if ids := {row for of_key in rows.values() for row in of_key}:
                for row_id, values in read_snapshot(folder / "rows.parquet"):
                    if row_id in ids:
                        search.quote([*values.values()])
        if self.dataset is not None:
            self._check_dataset(named, unkeyed=not any(keyed.values()))
        return seen, traces

    def _key_columns(self) -> tuple[dict[Path, set[str]], set[str]]:
        """Return the snapshots that are meant, with the columns that may have their keys; and all datasets' names."""
        noted, named = self._noted()
        everywhere = {column for columns in noted.values() for column in columns.values() if column}
        keyed: dict[Path, set[str]] = {}
        for folder in self._folders("ingest"):
            if (raw := read_record(folder, RawDataset)) is None:
                continue
            of_runs = noted.get(folder.name, {})
            names = {raw.name, *of_runs} - {""}
            if self.dataset is None or not names or self.dataset in names:
                keys = {raw.key, *of_runs.values()} if names else everywhere
                keyed[folder] = {key for key in keys if key is not None and key in raw.columns}
        return keyed, named

    def _check_dataset(self, named: set[str], *, unkeyed: bool) -> None:
        if unkeyed and self.dataset in named:
            raise RecipeError(
                f"--dataset: the rows of {self.dataset!r} have no key, so none can be asked for; give the dataset a "
                "`key`, and run its recipe again"
            )
        if self.dataset not in named:
            raise RecipeError(
                f"--dataset: no run here used a dataset {self.dataset!r}; there are {some(sorted(named)) or 'none'}"
            )

    def _noted(self) -> tuple[dict[str, dict[str, str | None]], set[str]]:
        """Return what recipes of runs say of snapshots: each output's datasets with their key columns; and all names.

        Records of snapshots say so themselves; those of before did not.
        """
        noted: dict[str, dict[str, str | None]] = {}
        named: set[str] = set()
        for path in (self.root / "runs").glob("*/*.json"):
            record = _json(path)
            evidence = cast("dict[str, Any]", record.get("evidence") or record)
            datasets = cast("dict[str, Any]", (evidence.get("recipe") or {}).get("datasets") or {})
            named |= {*datasets}
            for name, raw in cast("dict[str, Any]", evidence.get("raw") or {}).items():
                noted.setdefault(str(raw.get("fingerprint")), {})[name] = (datasets.get(name) or {}).get("key")
        for folder in self._folders("ingest"):
            named.add(str(_json(folder / RECORD).get("name") or ""))
        return noted, named - {""}

    def _folders(self, stage: str = "*") -> Iterator[Path]:
        for folder in sorted((self.root / "stages").glob(f"{stage}/*")):
            if folder.is_dir() and not folder.suffix:
                yield folder

    def _outputs(self, search: Search) -> Iterator[Trace]:
        """Yield the stages' outputs with a trace, but for snapshots, and attempts that may hold one."""
        for folder in self._folders():
            if folder.parent.name != "ingest" and any(map(search.holds, _files(folder))):
                yield self._trace(folder, "rows")
        for stage in ROWS_BEFORE_RECORD:
            for folder in sorted((self.root / "stages" / stage).glob("*.work")):
                yield self._trace(folder, "half-made")

    def _below_runs(self, search: Search) -> Iterator[Trace]:
        for path in _files(self.root / "runs"):
            if path.suffix != ".lock" and search.holds(path):
                yield self._trace(path, "page or log")
        for name in ("listings", "pins", "jobs"):
            for path in _files(self.root / name):
                if search.holds(path):
                    yield self._trace(path, "page or log")

    def _shared(self, search: Search) -> Iterator[Trace]:
        for name in SHARED:
            for path in sorted((self.root / name).glob("*")) if name in WHOLE else _files(self.root / name):
                whole = name in WHOLE
                if any(map(search.holds, _files(path) if path.is_dir() else [path])):
                    yield self._trace(path, "cached version" if whole else "table")

    def _cached(self, search: Search) -> Iterator[Trace]:
        if self.cache is None:
            return
        for path in sorted(path for name in CACHED for path in (self.cache / name).glob("*")):
            if any(map(search.holds, _files(path) if path.is_dir() else [path])):
                yield Trace(path=str(path), kind="cached version", bytes=size_of([path]))

    def _pages_of(self, gone: Sequence[Trace]) -> Iterator[Trace]:
        """Yield the pages of runs that used what goes: they may quote a row in a form that no search finds."""
        keys = {Path(trace.path).name for trace in gone if trace.kind in ("snapshot", "rows")}
        for folder in sorted(path for path in (self.root / "runs").glob("*") if path.is_dir()):
            record, pages = _json(folder / "run.json"), list[Path]()
            for one in (record, _json(folder / "retrain.json"), *map(_json, (folder / "history").glob("*.json"))):
                steps = cast("list[dict[str, str]]", one.get("steps") or [])
                used = {str(step.get("fingerprint")) for step in steps}
                if used & keys:
                    pages += [folder / "report.html", folder / "live.html"]
                    pages += [
                        self.root / "stages" / step["stage"] / step["fingerprint"]
                        for step in steps
                        if step.get("stage") == "report"
                    ]
            yield from (self._trace(path, "page or log") for path in dict.fromkeys(pages) if path.exists())

    def _learnt(
        self, registries: Sequence[RegistryReader], keys: Iterable[str]
    ) -> tuple[tuple[Holding, ...], list[str]]:
        """Ask registries, by the keys as they were given; return what they know, and what they do not."""
        wanted = [Wanted(by="key", value=key) for key in keys]
        learnt: list[Holding] = []
        unknown: list[str] = []
        for registry in registries:
            holdings: Holdings = find_rows(registry, wanted)
            learnt += [one for one in holdings.found if self.dataset in (None, one.dataset)]
            for names, why in (
                (holdings.without_index, "without an index of rows"), (holdings.without_keys, "of rows without keys"),
            ):  # fmt: skip
                if names:
                    unknown.append(f"not known of versions {why}: {', '.join(names)}")
        return tuple(learnt), unknown

    def _trace(self, path: Path, kind: Kind) -> Trace:
        return Trace(path=path.relative_to(self.root).as_posix(), kind=kind, bytes=size_of([path]))

    def _clear(self, traces: Iterable[Trace]) -> None:
        """Delete, each whole; a stage's record first, so that what is half deleted counts as absent."""
        for trace in traces:
            path = self.root / trace.path  # an absolute path, of the cache, stays what it is
            if trace.path.startswith("stages/"):
                (path / RECORD).unlink(missing_ok=True)
                if path.is_dir():
                    flush_folder(path)
                    shutil.rmtree(path)
            elif path.exists():
                discard(path)


def digests_of(keys: Iterable[str]) -> dict[str, str]:
    """Return keys by the digests that stand for them. Raises RecipeError where there is none, or for what is no key."""
    digests: dict[str, str] = {}
    for key in keys:
        if (one := digest_of_key(key)) is None:
            raise RecipeError(f"{key!r} is no key: allowed are texts and whole numbers; give a row's own key")
        digests[one] = key
    if not digests:
        raise RecipeError("no key to forget: give --key VALUE, or --keys FILE with one a line")
    return digests


def request_of(
    digests: Iterable[str], search: Search, learnt: Iterable[Holding], dataset: str | None, by: str, at: datetime
) -> ForgetRequest:
    """Return what ingestion is asked from now on, and which versions a retraining is to replace."""
    trained = defaultdict[str, set[str]](set)
    for one in learnt:
        if one.split != "train" or one.through is not None:
            continue
        for key in search.pairs.get(one.wanted.value) or filter(None, [digest_of_key(one.wanted.value)]):
            trained[key].add(one.version)
    return ForgetRequest(
        keys={key: tuple(sorted(search.rows.get(key, ()))) for key in sorted(digests)}, dataset=dataset,
        learnt={key: tuple(sorted(trained[key])) for key in sorted(trained)},
        at=at.isoformat(timespec="seconds"), by=by,
    )  # fmt: skip


def certify(work: Workspace, erasure: Erasure, request: ForgetRequest, by: str, at: datetime) -> Erasure:
    """Write what was cleared, when, by whom, and what could not be. It names no key, only its digest."""
    record = {
        "at": at.isoformat(timespec="seconds"),
        "by": by,
        "keys": list(request.keys),
        "keys_are": "blake2b of the key, keyed with 'reglage forget', 16 bytes",
        "dataset": request.dataset,
        "keys_without_a_row_here": len(erasure.absent),
        "rows": erasure.rows,
        "cleared": [trace.model_dump(mode="json") for trace in erasure.traces],
        "learnt_by": sorted({one.version for one in erasure.learnt}),
        "not_cleared": erasure.remaining,
    }
    path = f"{FOLDER}/certificates/{at:%Y%m%dT%H%M%S%f}-{request.name}"
    local = add(work, path, json.dumps(record, indent=1).encode())
    return erasure.model_copy(update={"certificate": str(local)})


def check_done(erasure: Erasure) -> None:
    """Raise BusyError if others kept an erasure from being done."""
    if erasure.in_use:
        who = some(list(erasure.in_use))
        raise BusyError(
            f"{erasure.folder} is in use by {who}: the keys are on its list, and no new ingestion takes their rows, "
            f"but {counted(len(erasure.traces), 'trace')} stay; run it again when that has ended"
        )


def _rows_with(folder: Path, columns: Iterable[str], asked: Mapping[str, str], search: Search) -> dict[str, set[str]]:
    """Return the ids of a snapshot's rows with one of the keys, which are given by text, by the key's digest.

    What pairs are called that are made of one is noted in `search`.
    """
    rows = defaultdict[str, set[str]](set)
    raw = read_record(folder, RawDataset)
    of_rows = raw.columns if raw else ()
    for column in sorted(columns):
        for row_id, value in read_column(folder / "rows.parquet", column):
            for key in keys_in(value, of_rows):
                if (text := row_key(key)) in asked:
                    rows[asked[str(text)]].add(row_id)
                    if key != value:
                        search.pairs.setdefault(str(value), set()).add(asked[str(text)])
    return rows


def _quarantined(folder: Path, asked: set[str]) -> set[str]:
    """Return the keys of which a row is in quarantine, where their keys were noted."""
    path = folder / "quarantine.jsonl"
    try:
        with path.open(encoding="utf-8") as lines:
            return {key for line in lines if (key := str(json.loads(line).get("key_digest"))) in asked}
    except (FileNotFoundError, ValueError):
        return set()


def _files(path: Path) -> Iterator[Path]:
    yield from (one for one in sorted(path.rglob("*")) if one.is_file())


def _json(path: Path) -> dict[str, Any]:
    """Return a record; an empty one where there is none, or none that can be read."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", record) if isinstance(record, dict) else {}
