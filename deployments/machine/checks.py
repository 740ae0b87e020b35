"""What a run needs of this machine, each looked at by itself: `reglage doctor` prints what these say."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from deployments.machine.exposure import exposure
from deployments.machine.findings import Finding, split, unsafe, well, wrong
from deployments.machine.state import StateFolder
from flows.prefect_server import check_user_server, server_home, user_has_server
from flows.run.record import installed_version, installed_versions
from ftlib.config import user_path
from ftlib.errors import RecipeError, ReglageError
from ftlib.extensions import CHECKER, MEMBERS, called, check_extensions, installed
from ftlib.origin import COMMIT, UNKNOWN, origin
from ftlib.recipe.recipe import Recipe
from ftlib.storage import Place, open_store
from ftlib.storage.files import in_bytes
from ftlib.storage.place import is_remote
from ftlib.storage.user_cache import cache_root
from ftlib.urls import redacted, secret_in
from ftlib.wording import counted, some

NEEDED_BYTES = 5_000_000_000
"""Free disk below which a small model's run is at risk: checkpoints, candidates and Ray's own files."""
LEAST_BYTES = 200_000_000
"""Free disk below which not even the smallest run ends."""
WRITERS = 8
"""Of the race that shows whether a store lets exactly one of them win."""


def examine(
    work: str, registry: str, recipe: Recipe | None = None, home: Path = Path(), *, ray: bool = False
) -> list[Finding]:
    """Look at everything; nothing is changed but for probes that are removed again.

    With a recipe also at what it reads, where it publishes, its GPUs and its cluster. `ray`: start a local Ray, too.
    """
    wanted = None if recipe is None else recipe.compute
    of_work = {"REGLAGE_CACHE": cache_root()} if is_remote(work) else {"--work": Path(work)}
    of_registry = {} if is_remote(registry) else {"--registry": user_path(registry)}
    return [
        *versions(),
        code(),
        *extensions(),
        *machine(recipe),
        *disk(of_work | of_registry),
        store("work", work) if is_remote(work) else writable("work", Path(work)),
        store("registry", registry),
        *(sources(recipe) if recipe else ()),
        *(cluster(recipe) if recipe and wanted and wanted.ray_address != "local" else ()),
        *(local_ray() if ray or (wanted and wanted.most_workers > 0 and wanted.ray_address == "local") else ()),
        prefect(),
        *installation(home),
        *exposure(next(iter(of_work.values()))),
    ]


def versions() -> Iterator[Finding]:
    """Say what is installed, and what of it is not what the lock says."""
    yield well("versions", ", ".join(f"{name} {version}" for name, version in installed_versions().items()))
    lock = _lock()
    if lock is None:
        yield well("lock", "no requirements.lock here to compare the versions with")
        return
    pinned = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;#]+)", lock.read_text(), re.MULTILINE))
    there = {name: (version, installed_version(name)) for name, version in pinned.items()}
    other = [
        f"{name} {have}, not {version}"
        for name, (version, have) in there.items()
        if have is not None and have.partition("+")[0] != version.partition("+")[0]
    ]
    if other:
        yield unsafe("lock", f"differ from {lock}: {some(other, 4)}", f"pip install -c {lock} what differs")
    else:
        have = sum(have is not None for _, have in there.values())
        yield well("lock", f"{have} of its {counted(len(pinned), 'version')} are installed, and as it says")


def _lock() -> Path | None:
    import ftlib

    places = (Path(ftlib.__file__).parents[1] / "requirements.lock", Path("requirements.lock"))
    return next((path for path in places if path.is_file()), None)


def code() -> Finding:
    """Say whether versions will name the commit that made them."""
    made_of = origin()
    found = f"commit {made_of.commit}, lock {made_of.lock_sha256[:12]}"
    if made_of.commit == UNKNOWN:
        return unsafe(
            "code",
            f"{found}: versions made here cannot say which code made them",
            f"build with {COMMIT}, or install git",
        )
    if made_of.commit.endswith("-dirty"):
        return unsafe(
            "code", f"{found}: files differ from it", "commit them before what is to be made again is published"
        )
    return well("code", found)


def extensions() -> Iterator[Finding]:
    """Say which extensions are installed, and what is wrong with them."""
    import_module("ftlib.recipe.recipe")  # where they join
    groups = [f"reglage.{field}" for field in MEMBERS] + [CHECKER]
    entries = [f"{entry.name} ({called(entry)})" for group in groups for entry in installed(group)]
    yield well("extensions", ", ".join(entries) or "none installed")
    try:
        check_extensions()
    except RecipeError as error:
        for line in str(error).splitlines():
            problem, _, remedy = line.rpartition("; ")
            yield wrong("extensions", problem, remedy)


def machine(recipe: Recipe | None) -> Iterator[Finding]:
    """Say what computes here, and whether the recipe asks for more."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield well("processor", f"{platform.machine()}, {cores} cores, torch uses {torch.get_num_threads()}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = recipe.compute if recipe and recipe.compute.use_gpu and recipe.compute.ray_address == "local" else None
    if asked is not None and count < max(1, asked.least_workers):
        yield wrong(
            "gpu",
            f"the recipe asks for {counted(max(1, asked.least_workers), 'GPU')}, torch sees {counted(count, 'GPU')}",
            "lower compute.workers, set compute.use_gpu to false, or look at nvidia-smi and at torch's CUDA build",
        )
    elif count:
        yield well("gpu", ", ".join(torch.cuda.get_device_name(i) for i in range(count)))
    else:
        yield well("gpu", "none that torch sees: compute.use_gpu would be refused here")


def disk(folders: dict[str, Path]) -> Iterator[Finding]:
    """Say how much is free where work and registry are, once for each disk."""
    seen: set[int] = set()
    for name, folder in folders.items():
        there = _existing(folder)
        device = there.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(there).free
        said = f"{in_bytes(free)} free at {there}"
        remedy = f"free {in_bytes(NEEDED_BYTES)} or choose another {name}"
        if free < LEAST_BYTES:
            yield wrong("disk", said, remedy)
        elif free < NEEDED_BYTES:
            yield unsafe("disk", f"{said}: a small model's run takes up to {in_bytes(NEEDED_BYTES)}", remedy)
        else:
            yield well("disk", said)


def writable(what: str, folder: Path) -> Finding:
    """Try to write: permission bits say nothing about read-only mounts, quotas or root."""
    try:
        with tempfile.NamedTemporaryFile(dir=_existing(folder), prefix=".reglage-doctor-"):
            pass
    except OSError as error:
        return wrong(what, f"{folder} cannot be written: {error.strerror}", "make it writable or choose another folder")
    return well(what, f"{folder.absolute()} can be written")


def store(what: str, registry: str, endpoint_url: str | None = None) -> Finding:
    """Say whether a registry, or a work place in a bucket, can be written, and lets one of many writers win."""
    if "://" not in registry and not user_path(registry).is_dir():
        return writable(what, user_path(registry))
    if secret := secret_in(registry):
        return wrong(what, f"it is {secret}", "leave it out: credentials come from the environment")
    from ftlib.registry import probe

    try:
        if "://" not in registry and not (written := writable(what, user_path(registry))).ok:
            return written
        server = endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        place = Place.parse(registry, server)
        probe(open_store(place if place.remote else Place.parse(str(user_path(registry)))), WRITERS)
    except (ReglageError, OSError) as error:
        return split(what, str(error))
    where = redacted(registry) if "://" in registry else user_path(registry).absolute()
    return well(what, f"{where} can be written; of {WRITERS} writers at once one won")


def sources(recipe: Recipe) -> Iterator[Finding]:
    """List what each dataset reads, and race at where it publishes: that is what credentials are for."""
    for name, dataset in recipe.datasets.items():
        what = f"rows {name}"
        try:
            files = dataset.source.list()
        except (ReglageError, OSError) as error:
            yield split(what, str(error))
        else:
            yield well(what, f"{counted(len(files), 'file')} can be listed")
    to = recipe.publish.to
    place = to.place()
    if place.remote:
        yield store("publish", place.uri, place.endpoint_url)


def cluster(recipe: Recipe) -> Iterator[Finding]:
    """Say whether the recipe's Ray cluster answers, and lets only those in who have its token."""
    from ftlib.on_ray.cluster import job_client

    address = recipe.compute.ray_address
    try:
        job_client(address)
    except ReglageError as error:
        yield split("ray", str(error))
        return
    yield well("ray", f"{address} answers")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        yield unsafe(
            "ray", f"{address} lets everyone run code who reaches it", "set RAY_AUTH_MODE=token there and here"
        )


def local_ray() -> Iterator[Finding]:
    """Start a Ray of our own, and end it."""
    from ftlib.on_ray.session import session
    from ftlib.training.compute import Compute

    started = time.monotonic()
    try:
        with session(Compute(workers=1)):
            seconds = time.monotonic() - started
    except Exception as error:  # whatever it is, it is what a run would meet
        yield wrong("ray", f"no local Ray starts: {str(error).splitlines()[0][:200]}", "compute.workers=0 needs none")
        return
    yield well("ray", f"a local one starts, in {seconds:.0f} s")


def prefect() -> Finding:
    """Say which Prefect server runs would use, and whether it answers."""
    try:
        if user_has_server():
            return well("prefect", f"{check_user_server()} answers")
    except ReglageError as error:
        return split("prefect", str(error))
    return well("prefect", f"each run starts a server of its own; its records are in {server_home()}")


def installation(home: Path) -> Iterator[Finding]:
    """Say whether `reglage up` runs below a home, and whether all of it does."""
    folder = StateFolder(home)
    try:
        state = folder.read()
    except ReglageError as error:
        yield split("up", str(error), needed=False)
        return
    if state.phase == "down" and state.supervisor is None:
        yield well("up", f"nothing is up in {folder.home}; `reglage up` starts what deployed runs need")
    elif not state.serves():
        yield unsafe("up", f"`reglage up` in {folder.home} was killed", "run it again: it takes over what still runs")
    else:
        down = [name for name, one in state.services.items() if not (one.process and one.process.lives())]
        needed = [name for name in down if state.services[name].url or name == "worker"]
        if needed and state.phase == "up":
            yield unsafe(
                "up", f"{', '.join(needed)} does not run in {folder.home}", f"look into {folder.root / 'logs'}"
            )
        else:
            yield well("up", f"{state.phase} in {folder.home}, {state.url}")


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    absolute = folder.absolute()
    return next(candidate for candidate in (absolute, *absolute.parents) if candidate.exists())
