"""Show, make or check what an environment puts on a Prefect server.

    python -m deployments.deploy plan  ENV.yaml     what would be created, updated (field by field) and deleted
    python -m deployments.deploy apply ENV.yaml     make it so
    python -m deployments.deploy check ENV.yaml     without a server: the file, and every deployment's parameters

Without a file: that of $REGLAGE_ENVIRONMENT, or this folder's own environment.
"""

import sys
from typing import TYPE_CHECKING

import click

from deployments.environment import Environment, read_environment
from ftlib.errors import ReglageError

if TYPE_CHECKING:
    from deployments.changes import Change


@click.command(help=__doc__)
@click.argument("command", type=click.Choice(["plan", "apply", "check"]))
@click.argument("environment", required=False)
def main(command: str, environment: str | None) -> None:
    """Run one of the three commands; an error is a line, and an exit code by its kind."""
    try:
        for line in _COMMANDS[command](read_environment(environment)):
            click.echo(line)
    except ReglageError as error:
        for line in str(error).splitlines():
            click.echo(f"reglage: {line}", err=True)
        sys.exit(error.exit_code)


def _plan(environment: Environment) -> list[str]:
    from deployments.changes import changes

    found = changes(environment)
    return [line for change in found for line in change.lines()] + [_summary(found)]


def _apply(environment: Environment) -> list[str]:
    from deployments.apply import apply

    done = apply(environment)
    return [line for change in done if change.what != "unchanged" for line in change.lines()] + [_summary(done)]


def _check(environment: Environment) -> list[str]:
    from deployments.deployment import wanted

    names = [deployment.full_name for deployment in wanted(environment)]
    return [f"{environment.name}: fits together: {', '.join(names)}"]


def _summary(changes: "list[Change]") -> str:
    counts = {what: sum(change.what == what for change in changes) for what in _WORDS}
    return ", ".join(f"{count} {what}" for what, count in counts.items())


_WORDS = ("created", "updated", "deleted", "unchanged")
_COMMANDS = {"plan": _plan, "apply": _apply, "check": _check}

if __name__ == "__main__":
    main()
