"""What a registry holds: the records of versions, their names and paths, how people write them.

    <root>/registry.json                                format, create-only
    <root>/blobs/sha256/ab/<64 hex>                     a file's bytes under their digest; equal files are stored once
    <root>/models/<name>/manifests/<64 hex>.json        files, digests, lineage, metrics; named by its own digest
    <root>/models/<name>/versions/00000042.json         create-only: the commit point; points to a manifest
    <root>/models/<name>/aliases/<alias>/00000007.json  create-only: the newest one says what the alias means

Commits, aliases and the format are sealed records (`ftlib.storage.sealed_records`). `ftlib.registry` has the protocol,
docs/registry-reference.md the reasons.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from ftlib.config import Config, Name
from ftlib.errors import RecipeError, StorageError
from ftlib.fingerprint import file_digest
from ftlib.storage.store import safe_relpath

MANIFEST = "manifest.json"
"""A pulled folder holds its manifest under this name, so that it can be checked without the registry."""

RECORDS_AT_ONCE = 8
"""Small objects that are read at the same time."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _inside(path: str) -> str:
    try:
        return safe_relpath(path)
    except StorageError as error:  # as one of the record's problems, so that whoever reads it names the record
        raise ValueError(str(error)) from None


class File(Config):
    """One file of a version."""

    path: Annotated[str, AfterValidator(_inside)]
    bytes: int = Field(ge=0)
    sha256: Sha256

    @property
    def blob(self) -> str:
        """Return where its bytes are in the registry."""
        return f"blobs/sha256/{self.sha256[:2]}/{self.sha256}"


class StandsOn(Config):
    """The model that an adapter's version is put over; it is not among the version's files."""

    name: str
    """A folder, `package:module/folder`, `owner/name@<commit>` of the hub, or a version `name@3`."""
    weights: str
    """The digest of its config and weight files."""
    quantization: Literal["nf4", "nf4_double"] | None = None
    """How its linear layers are rounded before the adapter is put over them; None: they are as they are."""


class Manifest(Config):
    """What a version is, a pure function of its content: no clock, no host, so equal content has an equal digest."""

    schema_version: Literal[1] = 1
    name: Name
    description: str
    files: tuple[File, ...]
    """Sorted by path."""
    metrics: dict[str, float | None]
    """evaluation/metric on the report split; None where its rows do not define the metric."""
    lineage: dict[str, JsonValue]
    """What it was made from and by; see `ftlib.stages.register`."""
    form: Literal["dense", "adapter"] = "dense"
    base: StandsOn | None = None
    """What an adapter stands on; None for dense weights."""

    @model_validator(mode="after")
    def _names_its_base(self) -> Manifest:
        if (self.form == "adapter") != (self.base is not None):
            raise ValueError("an adapter names its base, and nothing else does")
        return self

    @model_validator(mode="after")
    def _is_a_folder(self) -> Manifest:
        """Refuse files that no folder can hold together: one twice, one below another, our own record's name."""
        paths = {file.path for file in self.files}
        if len(paths) < len(self.files) or MANIFEST in paths:
            raise ValueError(f"a path is there twice, or is {MANIFEST}, which a pulled folder has of its own")
        for path in paths:
            if above := next((str(parent) for parent in PurePosixPath(path).parents if str(parent) in paths), None):
                raise ValueError(f"{path!r} lies below {above!r}, which is a file")
        return self

    def canonical(self) -> bytes:
        """Return the bytes that are stored and hashed; of dense weights as they were before there were forms."""
        fields = self.model_dump(mode="json", exclude={"form", "base"} if self.form == "dense" else set())
        if self.base and self.base.quantization is None:  # as it was before bases were rounded
            del fields["base"]["quantization"]
        return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False).encode()

    def digest(self) -> str:
        """Return the sha256 of those bytes; the manifest's name in the registry."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def path(self) -> str:
        """Return where it is in the registry."""
        return manifest_path(self.name, self.digest())


class CopiedFrom(Config):
    """The version of another registry whose files and manifest these are, byte for byte."""

    registry: str
    """Its URI, without credentials."""
    version: int = Field(ge=1)
    alias: str | None = None
    """The alias by which it was named there, if it was."""
    entry: int | None = None
    """The alias's entry that meant it then."""
    published_at: str
    """Its own; UTC."""
    who: str = ""
    """Who copied it."""

    def said(self, name: str) -> str:
        """Say in a few words which version it was."""
        meant = f", its {self.alias} by entry {self.entry}" if self.alias else ""
        by = f", by {self.who}" if self.who else ""
        return f"{self.registry}: {name}@{self.version}{meant}, published there {self.published_at}{by}"


class Version(Config):
    """The commit: that this manifest is version n of its model."""

    schema_version: Literal[1] = 1
    name: Name
    version: int = Field(ge=1)
    manifest: Sha256
    key: str
    """The publisher's idempotency key: publishing again with it gives this version."""
    nonce: str
    """Tells the writer's own object from another's when the reply to the write was lost."""
    published_at: str
    """UTC; for people. Nothing is ordered by it."""
    copied_from: CopiedFrom | None = None
    """Where it was copied from; None for a version that was published here."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @model_serializer(mode="wrap")
    def _as_before_there_were_copies(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave the field out of a version that is none, so that an older release reads it."""
        written = cast("dict[str, Any]", fields(self))
        if self.copied_from is None:
            written.pop("copied_from", None)
        return written


class Fault(Config):
    """A file of a version that is not what its manifest says."""

    path: str
    problem: str


FORMAT = 2
"""1 had records without a seal."""


class Format(Config):
    """What `registry.json` says."""

    format: int


def file_of(folder: Path, path: str) -> File:
    """Describe a file of a folder."""
    return File(path=path, bytes=(folder / path).stat().st_size, sha256=file_digest(folder / path))


def differences(manifest: Manifest, folder: Path) -> Iterator[Fault]:
    """Say where a pulled folder is not the version: missing, other and additional files."""
    for file in manifest.files:
        if not (folder / file.path).is_file():
            yield Fault(path=file.path, problem="is missing")
        elif file_of(folder, file.path) != file:
            yield Fault(path=file.path, problem="has other bytes")
    listed = {file.path for file in manifest.files} | {MANIFEST}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and (name := path.relative_to(folder).as_posix()) not in listed:
            yield Fault(path=name, problem="is not part of the version")


def parse_spec(spec: str) -> tuple[str, int | str | None]:
    """Read `name` (the latest), `name@3`, or `name@champion` (an alias). Raises RecipeError for anything else."""
    match = re.fullmatch(r"([^@]+)(?:@(?:([1-9][0-9]{0,7})|([a-z][a-z0-9_-]{0,62})))?", spec)
    if not match:
        raise RecipeError(
            f"version {spec!r}: write a model's name for its latest version, name@3 for the third, or name@champion "
            "for what an alias means"
        )
    return model_name(match[1]), int(match[2]) if match[2] else match[3]


def model_name(name: str) -> str:
    """Return a model's name unchanged. Raises RecipeError if it could not be a folder's."""
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise RecipeError(
            f"model name {name!r}: allowed are up to 63 of a-z, 0-9, - and _, starting with a letter or digit"
        ) from None


def is_model_name(name: str) -> bool:
    """Say whether a folder's name can be a model's."""
    try:
        return bool(model_name(name))
    except RecipeError:
        return False


def manifest_path(name: str, sha256: str) -> str:
    """Return where a manifest is in the registry."""
    return f"models/{name}/manifests/{sha256}.json"


def versions_path(name: str) -> str:
    """Return the folder of a model's commits."""
    return f"models/{name}/versions"


def version_path(name: str, number: int) -> str:
    """Return where a commit is in the registry."""
    return f"{versions_path(name)}/{number:08d}.json"


def numbers_in(names: list[str]) -> list[int]:
    """Return the numbers of the records in a listing; anything else there is not ours."""
    return sorted(int(name[:8]) for name in names if re.fullmatch(r"[0-9]{8}\.json", name))


def spans(numbers: Iterable[int]) -> str:
    """Write 1, 2, 3, 7 as 1-3, 7."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
