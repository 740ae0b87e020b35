"""`reglage doctor`: look at everything that a run needs."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from flows.command_line.console import stdout_console
from flows.prefect_server import check_user_server, server_home, user_has_server
from flows.run_record import installed_versions
from ftlib.config import Config, user_path
from ftlib.errors import RecipeError, ReglageError
from ftlib.extensions import CHECKER, MEMBERS, called, check_extensions, installed
from ftlib.origin import COMMIT, UNKNOWN, origin
from ftlib.urls import redacted, secret_in

NEEDED_BYTES = 5_000_000_000
"""Free disk below which a small model's run is at risk: checkpoints, candidates and Ray's own files."""


class Finding(Config):
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    remedy: str = ""


def examine(work: Path, registry: str) -> list[Finding]:
    """Look at everything; nothing is changed but for a probe file that is removed again."""
    versions = ", ".join(f"{name} {installed}" for name, installed in installed_versions().items())
    seen = Finding(what="versions", ok=True, found=versions)
    return [seen, _code(), *_extensions(), *_machine(), *_places(work, registry), _prefect()]


def print_findings(findings: Sequence[Finding]) -> None:
    """Print one line for each finding, with the remedy where one is needed."""
    console = stdout_console()
    for finding in findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        remedy = f"; {finding.remedy}" if finding.remedy and not finding.ok else ""
        console.print(f"{mark} {finding.what:<10} {finding.found}{remedy}", soft_wrap=True)


def _code() -> Finding:
    code = origin()
    found = f"commit {code.commit}, lock {code.lock_sha256[:12]}"
    if code.commit == UNKNOWN:
        found += f": versions made here cannot say which code made them; build with {COMMIT}, or install git"
    elif code.commit.endswith("-dirty"):
        found += ": files differ from it; commit them before what is published should be made again"
    return Finding(what="code", ok=True, found=found)


def _extensions() -> Iterator[Finding]:
    import_module("ftlib.recipe.recipe")  # where they join
    groups = [f"reglage.{field}" for field in MEMBERS] + [CHECKER]
    entries = [f"{entry.name} ({called(entry)})" for group in groups for entry in installed(group)]
    yield Finding(what="extensions", ok=True, found=", ".join(entries) or "none installed")
    try:
        check_extensions()
    except RecipeError as error:
        for line in str(error).splitlines():
            problem, _, remedy = line.rpartition("; ")
            yield Finding(what="extensions", ok=False, found=problem, remedy=remedy)


def _machine() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(
        what="processor", ok=True, found=f"{platform.machine()}, {cores} cores, torch uses {torch.get_num_threads()}"
    )
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding(what="gpu", ok=True, found=names)
    else:
        yield Finding(what="gpu", ok=True, found="none that torch sees: compute.use_gpu would be refused here")


def _places(work: Path, registry: str) -> Iterator[Finding]:
    free = shutil.disk_usage(_existing(work)).free
    yield Finding(
        what="disk",
        ok=free >= NEEDED_BYTES,
        found=f"{free / 1e9:.1f} GB free at {_existing(work)}",
        remedy=f"free {NEEDED_BYTES / 1e9:.0f} GB or choose another --work",
    )
    yield _writable("work", work)
    if "://" in registry:
        secret = secret_in(registry)
        remedy = "leave it out: credentials come from the environment"
        advice = f"{redacted(registry)}: try it with `reglage registry probe`"
        yield Finding(what="registry", ok=not secret, found=f"it is {secret}" if secret else advice, remedy=remedy)
    else:
        yield _writable("registry", user_path(registry))


def _writable(what: str, folder: Path) -> Finding:
    """Try it: permission bits say nothing about read-only mounts, quotas or root."""
    existing = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".reglage-doctor-"):
            pass
    except OSError as error:
        remedy = "make it writable or choose another folder"
        return Finding(what=what, ok=False, found=f"{folder} cannot be written: {error.strerror}", remedy=remedy)
    return Finding(what=what, ok=True, found=f"{folder.absolute()} can be written")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(candidate for candidate in (absolute, *absolute.parents) if candidate.exists())


def _prefect() -> Finding:
    try:
        if user_has_server():
            return Finding(what="prefect", ok=True, found=f"{check_user_server()} answers")
    except ReglageError as error:
        problem, _, remedy = str(error).partition("; ")
        return Finding(what="prefect", ok=False, found=problem, remedy=remedy)
    return Finding(
        what="prefect", ok=True, found=f"each run starts a server of its own; its records are in {server_home()}"
    )
