"""`reglage registry copy`: a version to another registry, as from staging to production."""

import click

from flows.command_line.aliases import user_name
from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import facts, key_option, open_registry, registry_options, version_argument
from flows.retraining.alias_move import AliasMove
from ftlib.errors import RecipeError
from ftlib.registry.signing import PublicKey
from ftlib.storage import Place


@click.command()
@version_argument
@click.option("--to", required=True, metavar="URI", help="The registry to copy it to; it is made if there is none.")
@click.option("--to-endpoint-url", metavar="URL", help="Its S3 server. [default: --endpoint-url]")
@click.option("--alias", metavar="NAME", help="Also let this alias of that registry mean it.")
@click.option("--who", envvar="REGLAGE_USER", default=user_name, help="Who copies it. [default: the user's name]")
@click.option("--why", default="", help="The reason that the alias's history keeps.")
@key_option
@registry_options
@json_option
def copy(
    version: str,
    to: str,
    to_endpoint_url: str | None,
    alias: str | None,
    who: str,
    why: str,
    key: PublicKey | None,
    registry: Place,
    as_json: bool,
) -> None:
    """Copy a version to another registry, every byte checked on the way and read back there.

    It is the same version there, by its manifest's digest, signatures and lineage included; its number and what
    aliases mean are that registry's own.
    """
    source, place = open_registry(registry), Place.parse(to, to_endpoint_url or registry.endpoint_url)
    if to_endpoint_url and not place.remote:
        raise RecipeError(f"--to-endpoint-url: {to} is a folder and has no server; leave it out")
    target, asked = open_registry(place), source.resolve(version)
    arrived, created = source.copy(asked, target, who, key)
    other = f" ({asked} in {source.store.uri})" if arrived.version != asked.version else ""
    lines = [f"{arrived} {'is now' if created else 'was already'} in {target.store.uri}{other}"]
    record = {**facts(arrived), "registry": target.store.uri, "created": created, "of": facts(asked), "entry": None}
    if alias is not None:
        move = AliasMove.promotion(target, arrived.name, alias, arrived.version)
        entry = move.make(who, why or f"copied from {source.store.uri}: {asked}")
        record["entry"] = entry.model_dump(mode="json")
        lines.append(move.outcome(entry))
    if base := source.manifest(asked).base:
        lines.append(f"it is an adapter and stands on {base.name}, which whoever loads it needs there too")
    emit("\n".join(lines), record, as_json)
