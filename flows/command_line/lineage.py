"""`reglage lineage`: what trained a version, and which versions a row is in."""

import json
from contextlib import suppress
from typing import Any, cast

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import aliases_of, facts, open_registry, registry_options, table
from ftlib.data.row_keys import row_key
from ftlib.errors import StorageError
from ftlib.origin import UNKNOWN
from ftlib.published.ancestry import Ancestry
from ftlib.published.row_search import Holdings, Wanted, find_rows
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, Version
from ftlib.storage import Place


@click.command()
@click.argument("version", metavar="[NAME[@NUMBER|@ALIAS]]", required=False)
@click.option(
    "--row", "rows", multiple=True, metavar="ID", help="A row's `_row_id`: which versions is it in? Repeatable."
)
@click.option("--key", "keys", multiple=True, metavar="VALUE", help="The same by the rows' own key (`datasets.*.key`).")
@registry_options
@json_option
def lineage(
    version: str | None,
    rows: tuple[str, ...],
    keys: tuple[str, ...],
    registry: Place,
    as_json: bool,
) -> None:
    """Show what a version was made from; or, with --row or --key, every version that a row went into.

    The exit code is 6 where none of the rows is in any version.
    """
    wanted = [
        *(Wanted(by="row", value=row) for row in rows),
        *(Wanted(by="key", value=key) for key in spellings(keys)),
    ]
    if (version is None) == (not wanted):
        raise click.UsageError("give a version, or rows with --row or --key")
    opened = open_registry(registry)
    if version is not None:
        _show(opened, opened.resolve(version), as_json)
    else:
        _search(opened, wanted, as_json)


def spellings(keys: tuple[str, ...]) -> list[str]:
    """Return the keys as given, and what `"4"` is where the quotes were the shell's or JSON's: none may be missed."""
    spellings: dict[str, None] = dict.fromkeys(keys)
    for key in keys:
        with suppress(ValueError):
            unquoted = json.loads(key)
            if isinstance(unquoted, str) and (folded := row_key(unquoted)):
                spellings[folded] = None
    return list(spellings)


def _show(opened: ModelRegistry, version: Version, as_json: bool) -> None:
    manifest, ancestry = opened.manifest(version), Ancestry.read(opened)
    parents = ancestry.parents(str(version))
    record = {
        **facts(version),
        "registry": opened.store.uri,
        "parents": parents,
        "ancestors": ancestry.ancestors(str(version)),
        "lineage": manifest.lineage,
    }
    emit(lambda: _print(version, manifest, parents), record, as_json)


def _print(version: Version, manifest: Manifest, parents: list[str]) -> None:
    lineage = cast("dict[str, Any]", manifest.lineage)
    emit(
        table(["what", "value"], _facts(lineage, parents), f"{version}, published {version.published_at}"),
        {},
        as_json=False,
    )
    if "adopted" in lineage:
        return
    data = lineage.get("data") or {}
    emit(table(["dataset", "split", "rows", "indexed as"], _splits(data), "rows"), {}, as_json=False)
    emit(table(["dataset", "file", "rows", "MB", "sha256"], _files(data), "files"), {}, as_json=False)


def _facts(lineage: dict[str, Any], parents: list[str]) -> list[list[str]]:
    """Return what a version was made from, a row a fact."""
    base, weights, code = (lineage.get(part) or {} for part in ("base_model", "weights", "code"))
    commit, lock = (code.get(name) or UNKNOWN for name in ("commit", "lock_sha256"))
    ran = f"reglage {code.get('reglage')}, commit {commit}, lock {_short(lock)}"
    if adopted := lineage.get("adopted"):
        return [*_adopted(adopted, lineage, parents), ["code", ran]]
    ends = [weights.get("start"), weights.get("end"), *(weights.get("siblings") or ())]
    return [
        ["made from", ", ".join(parents) or "no version of this registry"],
        ["base model", f"{base.get('name')}, weights {_short(base.get('weights'))}"],
        *(
            [f"{one['use']} of {one['phase']}", f"{one['name']}: {one['model']}, weights {_short(one['weights'])}"]
            for one in lineage.get("companions") or ()
        ),
        ["recipe", _short(lineage.get("recipe_digest"))],
        ["weights", f"{_short(weights.get('published'))}: {weights.get('candidate')}"],
        ["mixed from", ", ".join(_short(end) for end in ends if end)],
        ["code", ran],
    ]


def _adopted(adopted: dict[str, Any], lineage: dict[str, Any], parents: list[str]) -> list[list[str]]:
    """Return what is known of a version that no run of ours trained."""
    parts = (adopted.get("merge") or {}).get("checkpoints") or ()
    by = f", by {adopted['who']}" if adopted.get("who") else ""
    return [
        ["made from", ", ".join(parents) or "no version of this registry"],
        ["published from", f"the folder {adopted['folder']}{by}; no run of ours trained it, and no row is known"],
        *(
            [["merged from", ", ".join(f"{one['name']}, weights {_short(one['weights'])}" for one in parts)]]
            * bool(parts)
        ),
        ["measured by", f"recipe {_short(lineage['measured_by_digest'])}" if "measured_by" in lineage else "nothing"],
        ["weights", _short((lineage.get("weights") or {}).get("published"))],
    ]


def _short(digest: object) -> str:
    return str(digest)[:12]


def _splits(data: dict[str, Any]) -> list[list[str]]:
    """Return each split's rows, and how many rows of the source its index tells apart."""
    return [
        [name, split, str(count), str(facts["index"]["splits"].get(split, "–")) if "index" in facts else "no index"]
        for name, facts in data.items()
        for split, count in (facts.get("rows") or {}).items()
    ]


def _files(data: dict[str, Any]) -> list[list[str]]:
    return [
        [name, file["uri"], str(file.get("rows", "–")), f"{file['bytes'] / 1e6:.2f}", _short(file["sha256"])]
        for name, facts in data.items()
        for file in facts.get("files") or ()
    ]


def _search(opened: ModelRegistry, wanted: list[Wanted], as_json: bool) -> None:
    holdings = find_rows(opened, wanted)
    models = {holding.version.partition("@")[0] for holding in holdings.found}
    aliases = {model: aliases_of(opened, model) for model in models}
    record = {"registry": opened.store.uri, **holdings.model_dump(mode="json"), "aliases": aliases}
    emit(lambda: _print_holdings(holdings, wanted, aliases), record, as_json)
    if not holdings.found:
        click.get_current_context().exit(StorageError.exit_code)


def _print_holdings(holdings: Holdings, wanted: list[Wanted], aliases: dict[str, dict[str, int]]) -> None:
    """Print the versions that a row went into, and the versions of which that is not known."""
    rows: list[list[str]] = []
    for holding in holdings.found:
        name, _, number = holding.version.partition("@")
        meant = ", ".join(alias for alias, version in aliases[name].items() if version == int(number))
        how = f"{holding.use}, through {holding.through}" if holding.through else holding.use
        asked = holding.wanted.value if holding.wanted.by == "key" else _short(holding.wanted.value)
        rows.append([asked, holding.version, meant, holding.dataset, how])
    if rows:
        emit(table(["asked", "version", "aliases", "dataset", "the row"], rows), {}, as_json=False)
    for item in wanted:
        if not any(holding.wanted == item for holding in holdings.found):
            click.echo(f"{item}: in no version, of {len(holdings.searched)} that have an index")
    if holdings.without_index:
        click.echo(f"not known for versions published without an index of rows: {', '.join(holdings.without_index)}")
    if holdings.without_keys:
        click.echo(f"not known by key for versions with data whose rows have none: {', '.join(holdings.without_keys)}")
