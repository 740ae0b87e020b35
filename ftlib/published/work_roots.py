"""What published versions need of a work folder, and its collection by a policy, by hand or by the janitor.

Where a recipe published stands in `runs/<recipe name>/published/`, a file for each place, whatever its later runs came
to: a champion may be of a run long ago, and of another registry than the last one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import TypeAdapter, ValidationError

from ftlib.errors import StorageError
from ftlib.fingerprint import digest
from ftlib.registry.outcome import ModelVersion
from ftlib.registry.places import Registry
from ftlib.registry.reading import RegistryReader
from ftlib.storage import Place, open_store
from ftlib.work_collection import BucketCollector, WorkCollected, WorkCollector, WorkPolicy
from ftlib.workspace import InBucket, Workspace, add

PUBLISHED = "published"
"""The folder of a recipe's runs that says where they published."""


class _Publication(NamedTuple):
    """Where runs of a recipe published, or would have."""

    uri: str
    endpoint_url: str | None
    model: str


@dataclass(frozen=True)
class Needs:
    """What the versions that aliases mean now were made from, and who they are."""

    contents: dict[str, str]
    """The digests of their snapshots and prepared rows."""
    pulled: dict[str, str]
    """Their manifests."""


def note_publication(work: Workspace, recipe: str, to: Registry, version: ModelVersion) -> None:
    """Note in the folder of a recipe's runs where a version of its model lies, once for each place."""
    place = _Publication(version.registry, to.place().endpoint_url, version.name)
    add(work, f"runs/{recipe}/{PUBLISHED}/{digest([*place])[:16]}.json", json.dumps(place._asdict()).encode())


def collect_work(
    work: Workspace, policy: WorkPolicy, *, delete: bool = False, ignore: Iterable[str] = (), over: Iterable[str] = ()
) -> WorkCollected:
    """Look through a work place and, with `delete`, remove what nobody needs.

    Champions are looked up in the registries that the place's runs published to, but for those to `ignore`, by URI.
    `over` are ids of retrainings that are known to wait for no answer any more.
    Raises StorageError, deleting nothing, if one of them cannot be read: what its champions need is not known then.
    """
    needs = needs_of(work, {*ignore})
    if isinstance(work, InBucket):
        return BucketCollector(work, policy, needs.contents, frozenset(over)).collect(delete=delete)
    return WorkCollector(work.root, policy, needs.contents, needs.pulled, frozenset(over)).collect(delete=delete)


def needs_of(work: Workspace, ignore: set[str]) -> Needs:
    """Return what the versions need that aliases mean, of every model that runs of a work folder published."""
    needs = Needs({}, {})
    published, unused = _places(work)
    for (uri, endpoint, model), recipe in {**unused, **published}.items():
        if uri in ignore:
            continue
        registry = RegistryReader(open_store(Place.parse(uri, endpoint)))
        if (uri, endpoint, model) in unused and not registry.is_there():
            continue  # a first run was refused: it left no registry, and a champion neither
        try:
            registry.check_format()
        except StorageError as error:
            raise StorageError(
                f"{error}. A run of {recipe} published there, and what its champions need must not be deleted: put it "
                f"back, or give --ignore-registry {uri} if it is gone for good (janitor: `ignore_registries`)"
            ) from error
        _add(needs, registry, model)
    return needs


def registries_of(work: Workspace) -> dict[tuple[str, str | None], tuple[str, ...]]:
    """Return the registries that runs of a work folder published to, by URI and server, with the models' names."""
    names: dict[tuple[str, str | None], tuple[str, ...]] = {}
    for uri, endpoint, model in _places(work)[0]:
        names[uri, endpoint] = (*names.get((uri, endpoint), ()), model)
    return names


def _add(needs: Needs, registry: RegistryReader, model: str) -> None:
    """Add what a model's versions need that its aliases mean now."""
    for alias in registry.aliases(model):
        if (entry := registry.alias(model, alias)) is None:
            continue
        version, who = registry.version(model, entry.version), f"{alias} of {model}, version {entry.version}"
        needs.pulled[version.manifest] = who
        data = cast("dict[str, Any]", registry.manifest(version).lineage.get("data") or {})
        for facts in data.values():
            needs.contents.update({facts[part]: who for part in ("raw", "prepared") if facts.get(part)})


def _places(work: Workspace) -> tuple[dict[_Publication, str], dict[_Publication, str]]:
    """Return where runs of each recipe published, and where the last one would have, each with the recipe's name."""
    published: dict[_Publication, str] = {}
    unused: dict[_Publication, str] = {}
    beside = work.root.parent if work.store is None else Path()
    for recipe_name in dict.fromkeys(name.rstrip("/") for name in work.names("runs") if name.endswith("/")):
        folder = f"runs/{recipe_name}"
        for name in work.names(f"{folder}/{PUBLISHED}"):
            if name.endswith(".json") and (noted := _read(work.shared(f"{folder}/{PUBLISHED}/{name}"))):
                published[_Publication(**noted)] = recipe_name
        for record in (_read(work.newest(f"{folder}/{name}")) for name in ("run.json", "retrain.json")):
            recipe = (record.get("evidence") or record).get("recipe") or {}
            version = record.get("result") or record.get("version") or {}
            publish: dict[str, Any] = recipe.get("publish") or {}
            try:
                place = TypeAdapter[Registry](Registry).validate_python(publish.get("to")).place()
            except ValidationError:
                continue
            if uri := version.get("registry"):
                published[_Publication(str(uri), place.endpoint_url, str(publish["name"]))] = recipe_name
            else:  # a relative path counts from where that run was, which is beside its work folder most often
                guess = place.uri if place.remote else str((beside / place.key).absolute())
                unused[_Publication(guess, place.endpoint_url, str(publish["name"]))] = recipe_name
    return published, {place: recipe for place, recipe in unused.items() if place not in published}


def _read(path: Path) -> dict[str, Any]:
    """Return a record; an empty one where there is none. Raises StorageError for one that is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise StorageError(
            f"{path} is damaged ({error}), and says what must not be deleted; delete it, or run its recipe again"
        ) from error
