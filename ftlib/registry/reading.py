"""What a registry holds, for everyone who may only read it."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from ftlib.errors import IntegrityError, StorageError
from ftlib.registry.aliases import AliasEntry, AliasLog, aliases_path, is_alias
from ftlib.registry.signing import PublicKey, signature_path, signatures_path
from ftlib.registry.versions import (
    FORMAT,
    RECORDS_AT_ONCE,
    Format,
    Manifest,
    Version,
    is_model_name,
    manifest_path,
    model_name,
    numbers_in,
    parse_spec,
    spans,
    version_path,
    versions_path,
)
from ftlib.storage.sealed_records import parse, read_record, read_whole
from ftlib.storage.store import Store
from ftlib.wording import meant
from ftlib.workspace.in_bucket import PLACE


class RegistryReader:
    """Versions and aliases in a store. Needs no write permission."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def models(self) -> list[str]:
        """Return the names that have been published, or whose first publish has not ended.

        Raises StorageError if there is no registry here.
        """
        self.check_format()
        return [name for name in folders(self.store, "models") if is_model_name(name)]  # consoles leave folders, too

    def version_numbers(self, name: str) -> list[int]:
        """Return the numbers of a model's commits, in order."""
        return numbers_in(self.store.list(versions_path(model_name(name))))

    def versions(self, name: str) -> list[Version]:
        """Return a model's versions in order; empty if there are none."""
        self.check_format()
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            read = pool.map(lambda number: self.find(name, number), self.version_numbers(name))
        return [version for version in read if version]

    def find(self, name: str, number: int) -> Version | None:
        """Return a version, or None if there is none, or no registry."""
        path = version_path(model_name(name), number)
        version = read_record(self.store, path, Version)
        if version and (version.name, version.version) != (name, number):
            raise IntegrityError(
                f"{self.store.uri}/{path} says it is {version}: it was copied there by hand; remove it"
            )
        return version

    def version(self, name: str, number: int | None = None) -> Version:
        """Return one version, the latest if `number` is None. Raises StorageError, naming what there is."""
        self.check_format()
        if number is not None and (version := self.find(name, number)):
            return version
        numbers = self.version_numbers(name)
        if number is None and numbers and (version := self.find(name, numbers[-1])):
            return version
        if not numbers:
            raise self._no_version(name)
        raise StorageError(f"{self.store.uri} has no {name}@{number}; the versions are {spans(numbers)}")

    def _no_version(self, name: str) -> StorageError:
        models = self.models()
        if name in models:
            return StorageError(
                f"{self.store.uri} has no version of {name!r} yet: no publish of it has ended; if none is going on, "
                "publish it again"
            )
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            has_version = pool.map(self.version_numbers, models)
            published = [model for model, numbers in zip(models, has_version, strict=True) if numbers]
        offered = f"it has {', '.join(published) or 'none'}{meant(name, published)}"
        return StorageError(f"{self.store.uri} has no model {name!r}; {offered}")

    def resolve(self, spec: str) -> Version:
        """Return the version that `name`, `name@3` or `name@champion` means now.

        Raises RecipeError for anything else, StorageError if there is none, naming what there is.
        """
        name, which = parse_spec(spec)
        if not isinstance(which, str):
            return self.version(name, which)
        if (entry := self.alias(name, which)) is None:
            self.version(name)  # a wrong model is the likelier mistake
            aliases = self.aliases(name)
            remedy = meant(which, aliases) or ": promote a version, or name one"
            raise StorageError(
                f"{self.store.uri} has no alias {name}@{which}; its aliases are {', '.join(aliases) or 'none'}{remedy}"
            )
        return self.version(name, entry.version)

    def manifest(self, version: Version, key: PublicKey | None = None) -> Manifest:
        """Return a version's manifest.

        Raises IntegrityError, naming the version, if its bytes are not the ones that were committed, if it lists files
        that no folder could hold (`../x`, one twice), or if `key` is given and did not sign them.
        """
        path = manifest_path(version.name, version.manifest)
        data = read_whole(self.store, path, lambda data: hashlib.sha256(data).hexdigest() == version.manifest)
        if data is None:
            raise IntegrityError(f"{self.store.uri}/{path} is missing though {version} needs it; publish again")
        if (sha256 := hashlib.sha256(data).hexdigest()) != version.manifest:
            raise IntegrityError(
                f"{version}: {self.store.uri}/{path} has sha256 {sha256[:16]}…, which is not its name; restore it from "
                "a copy"
            )
        if key:
            envelope = self.store.read(signature_path(version.name, version.manifest, key.keyid))
            key.check(envelope, data, f"{self.store.uri}: {version}")
        return parse(Manifest, data, f"{version}: {self.store.uri}/{path}")

    def with_manifest(self, of: Version) -> Version | None:
        """Return this registry's first version of a model that has the manifest of another registry's, or None."""
        return next((one for one in self.versions(of.name) if one.manifest == of.manifest), None)

    def has_whole(self, manifest: Manifest) -> bool:
        """Say whether every file of a version is here, by size; not a byte is read."""
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            sizes = pool.map(lambda file: self.store.size(file.blob) == file.bytes, manifest.files)
            return all(sizes)

    def signatures(self, version: Version) -> dict[str, bytes]:
        """Return the envelopes that sign a version, by their paths, which are the same in every registry."""
        folder = signatures_path(version.name, version.manifest)
        read = {f"{folder}/{name}": self.store.read(f"{folder}/{name}") for name in self.store.list(folder)}
        return {path: envelope for path, envelope in read.items() if envelope is not None}

    def aliases(self, name: str) -> list[str]:
        """Return the aliases a model ever had."""
        return [alias for alias in folders(self.store, aliases_path(model_name(name))) if is_alias(alias)]

    def alias(self, name: str, alias: str) -> AliasEntry | None:
        """Return what an alias means now, or None if it was never set."""
        return AliasLog(self.store, model_name(name), alias).newest()

    def history(self, name: str, alias: str) -> list[AliasEntry]:
        """Return every move of an alias, oldest first."""
        return AliasLog(self.store, model_name(name), alias).entries()

    def hold(self, name: str, alias: str) -> AliasEntry | None:
        """Return the person's rollback that holds promotions by rule, or None once a person promoted after it."""
        return AliasLog(self.store, model_name(name), alias).hold()

    def is_there(self) -> bool:
        """Say whether there is a registry here, of whatever format. Raises what the store does if it is away."""
        return self.store.size("registry.json") is not None

    def check_apart(self) -> None:
        """Raise StorageError if a work place lies here, too: both keep blobs under one name, and delete others'."""
        # Not by its size: a HEAD's refusal has no body, so nobody learns of expired credentials or of a late clock.
        if self.store.read(PLACE) is not None:
            raise StorageError(
                f"{self.store.uri} is a work place, too (it has a {PLACE}), whose blobs a registry's collector would "
                "delete, since no version needs them: nothing is published or collected here; name a registry with a "
                "prefix of its own, and copy what is published here to it (reglage registry copy NAME@N --to URI)"
            )

    def check_format(self) -> None:
        """Raise StorageError unless there is a registry here that this program understands."""
        made_with = read_record(self.store, "registry.json", Format)
        if made_with is None:
            raise StorageError(f"there is no registry at {self.store.uri}; publish to it first, or name another")
        if made_with.format != FORMAT:
            raise StorageError(
                f"{self.store.uri} has format {made_with.format}, this program knows {FORMAT}: use the "
                "reglage that made it"
            )


def folders(store: Store, folder: str) -> list[str]:
    """Return the names of the folders directly in a folder."""
    return [name.rstrip("/") for name in store.list(folder) if name.endswith("/")]
