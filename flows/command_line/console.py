"""How every `reglage` command speaks: a table or one JSON object on stdout, one line per error, an exit code by kind.

    @click.group(cls=ReglageGroup)
    def cli(): ...

    @cli.command()
    @json_option
    def things(as_json: bool) -> None:
        emit(lambda: print("three things"), {"things": 3}, as_json)

With `--json` stdout holds exactly one JSON object, `{"error": {...}}` if the command failed. Whatever anyone else
prints meanwhile (Ray, native code, child processes) lands on stderr.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from ftlib.config import user_path
from ftlib.errors import Interrupted, ReglageError
from ftlib.storage.place import is_remote
from ftlib.urls import redacted

if TYPE_CHECKING:
    from rich.console import Console

_PIPED_WIDTH = 10_000
"""Columns; rich would fold tables at 80, and half a digest on the next line is of no use to `grep` and `cut`."""


class UserPath(click.Path):
    """A path on the command line or in a variable; `~` is the user's home, which a shell does not see in --work=~/x."""

    def __init__(self, **allowed: bool) -> None:
        """Take what `click.Path` does."""
        super().__init__(path_type=Path, **allowed)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand a path's `~` as the shell does."""
        return super().convert(user_path(value), param, ctx)


class WorkPlace(UserPath):
    """Where work is kept: a folder, or a prefix of a bucket, as it was written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a URI as it is, and a folder's path as `UserPath` does."""
        return str(value) if is_remote(str(value)) else str(super().convert(value, param, ctx))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout; everything else goes to stderr."
)

_emitted: ContextVar[list[Mapping[str, object]] | None] = ContextVar("emitted", default=None)


def emit(human: Callable[[], object] | object, record: Mapping[str, object], as_json: bool) -> None:
    """Give a command's result: `record` as JSON, or `human`: called, or printed (by rich if not a str).

    Call it once, at the command's end. Under `ReglageGroup` the JSON is written after the command has returned, so
    that a command which fails later prints only its error.
    """
    if not as_json:
        if callable(human):
            human()
        elif isinstance(human, str):
            click.echo(human)
        else:
            stdout_console().print(human)
        return
    waiting = _emitted.get()
    if waiting is None:
        _write_json(sys.stdout, record)
    else:
        waiting.append(record)


def stdout_console() -> Console:
    """Return rich's console on stdout: of the terminal's width, and of no width that matters in a pipe or a file.

    Texts are printed as they are, names of users' columns and their reasons too: markup is read where a call asks for
    it, and escapes what others wrote.
    """
    from rich.console import Console

    fits = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, emoji=False, width=None if fits else _PIPED_WIDTH)


class ReglageGroup(click.Group):
    """The root command: turns errors into one line (or one JSON object) and an exit code.

    ReglageError      `reglage: <message>`, its exit_code
    usage error       the same, exit code 2
    Ctrl-C            `reglage: stopped ...`, 130
    anything else     a bug: traceback on stderr, exit code 1
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; like click's, it ends the process unless `standalone_mode` is false."""
        arguments = list(sys.argv[1:] if args is None else args)

        def run() -> int:
            result = super(ReglageGroup, self).main(
                arguments, prog_name, complete_var, standalone_mode=False, windows_expand_args=False, **extra
            )
            return result if isinstance(result, int) else 0  # click hands back ctx.exit()'s code here

        if not standalone_mode:
            return run()
        sys.exit(_run_for_json(run) if _wants_json(arguments) else _run_for_people(run))


def _wants_json(arguments: list[str]) -> bool:
    """Look at the raw words: a usage error happens before click has parsed any option."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in ours


def _run_for_people(run: Callable[[], int]) -> int:
    try:
        return run()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # `reglage` alone: the help is the answer
        return error.exit_code
    except (click.ClickException, click.Abort, ReglageError) as error:
        for line in _message(error).splitlines():
            print(f"reglage: {line}", file=sys.stderr)
        return _exit_code(error)


def _run_for_json(run: Callable[[], int]) -> int:
    records: list[Mapping[str, object]] = []
    token = _emitted.set(records)
    try:
        with _stdout_kept_clean() as stdout:
            code = _run_collecting(run, records)
            for record in records[-1:]:
                _write_json(stdout, record)
            return code
    finally:
        _emitted.reset(token)


def _run_collecting(run: Callable[[], int], records: list[Mapping[str, object]]) -> int:
    try:
        return run()
    except (click.ClickException, click.Abort, ReglageError) as error:
        code, message, kind = _exit_code(error), _message(error), _kind(error)
    except Exception as error:
        traceback.print_exc()  # a bug of ours: the script still gets its object, the maintainer the traceback
        code, message, kind = 1, f"{type(error).__name__}: {error}", "InternalError"
    records.append({"error": {"kind": kind, "message": message, "exit_code": code}})
    return code


@contextlib.contextmanager
def _stdout_kept_clean() -> Generator[TextIO]:
    """Send everything printed meanwhile to stderr, by file descriptor where there is one; yield the real stdout."""
    out = sys.stdout
    try:
        descriptor, errors = out.fileno(), sys.stderr.fileno()
    except (io.UnsupportedOperation, ValueError):  # captured by a test runner: no descriptor behind it
        with contextlib.redirect_stdout(sys.stderr):
            yield out
        return
    out.flush()
    kept = os.dup(descriptor)
    os.dup2(errors, descriptor)
    try:
        with open(kept, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        out.flush()
        os.dup2(kept, descriptor)
        os.close(kept)


def _write_json(stream: TextIO, record: Mapping[str, object]) -> None:
    stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    stream.flush()


def _message(error: Exception) -> str:
    return redacted(_said(error))  # a usage error repeats what was typed


def _said(error: Exception) -> str:
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "reglage"
        message = error.format_message().rstrip(".")
        return f"{message[:1].lower()}{message[1:]}; see `{command} --help`"  # as all other errors are written
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, click.Abort):
        return "stopped; run the same command again to go on from where it was"
    return str(error)


def _exit_code(error: Exception) -> int:
    if isinstance(error, click.Abort):
        return Interrupted.exit_code
    return cast("click.ClickException | ReglageError", error).exit_code


def _kind(error: Exception) -> str:
    if isinstance(error, click.Abort):
        return Interrupted.__name__
    return "UsageError" if isinstance(error, click.ClickException) else type(error).__name__
