"""What published versions need of a work folder, and its collection by a policy, by hand or by the janitor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from ftlib.errors import StorageError
from ftlib.registry.places import Registry
from ftlib.registry.reading import RegistryReader
from ftlib.storage import Place, open_store
from ftlib.work_collection import WorkCollected, WorkCollector, WorkPolicy


@dataclass(frozen=True)
class Needs:
    """What the versions that aliases mean now were made from, and who they are."""

    contents: dict[str, str]
    """The digests of their snapshots and prepared rows."""
    pulled: dict[str, str]
    """Their manifests."""


def collect_work(root: Path, policy: WorkPolicy, *, delete: bool = False, ignore: Iterable[str] = ()) -> WorkCollected:
    """Look through a work folder and, with `delete`, remove what nobody needs.

    Champions are looked up in the registries that the folder's runs published to, but for those to `ignore`, by URI.
    Raises StorageError, deleting nothing, if one of them cannot be read: what its champions need is not known then.
    """
    needs = needs_of(root, {*ignore})
    return WorkCollector(root, policy, needs.contents, needs.pulled).collect(delete=delete)


def needs_of(root: Path, ignore: set[str]) -> Needs:
    """Return what the versions need that aliases mean, of every model that runs of a work folder published."""
    needs = Needs({}, {})
    for (uri, endpoint, model), recipe in _published(root).items():
        if uri in ignore:
            continue
        registry = RegistryReader(open_store(Place.parse(uri, endpoint)))
        try:
            registry.check_format()
        except StorageError as error:
            raise StorageError(
                f"{error}. The last run of {recipe} published there, and what its champions need must not be deleted: "
                f"put it back, or give --ignore-registry {uri} if it is gone for good"
            ) from error
        _add(needs, registry, model)
    return needs


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


def _published(root: Path) -> dict[tuple[str, str | None, str], str]:
    """Return where the last run of each recipe published: URI, server and model, and the recipe's name."""
    places: dict[tuple[str, str | None, str], str] = {}
    for folder in sorted((root / "runs").glob("*")):
        for record in _records(folder):
            recipe = (record.get("evidence") or record).get("recipe") or {}
            version = record.get("result") or record.get("version") or {}
            publish: dict[str, Any] = recipe.get("publish") or {}
            try:
                place = TypeAdapter[Registry](Registry).validate_python(publish.get("to")).place()
            except ValidationError:
                continue
            # A relative path counts from where that run was; what it published says where that is.
            uri = version.get("registry") or (place.uri if place.remote else str((root.parent / place.key).absolute()))
            places[str(uri), place.endpoint_url, str(publish["name"])] = folder.name
    return places


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for name in ("run.json", "retrain.json"):
        try:
            yield json.loads((folder / name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            raise StorageError(
                f"{folder / name} is damaged ({error}), and says what must not be deleted; delete it, or run its "
                "recipe again"
            ) from error
