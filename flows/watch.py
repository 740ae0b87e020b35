"""Look whether files have come, changed or gone where a model's rows come from, and say so: nothing is started here.

What starts on the event `reglage.data.changed` is a deployment's to say, and whether there is a reason to train is
`retrain`'s. So an event is a hint: one too many costs seconds, and it is rather sent twice than lost.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed
from pydantic import TypeAdapter, ValidationError

from flows.events import CHANGED, send_event
from flows.one_line_errors import one_line_errors
from flows.pages.run_page import artifact_key, show_markdown
from ftlib.config import Config, Name
from ftlib.data.listed import ListedFile
from ftlib.data.sources.listing import list_bucket, list_path, once
from ftlib.errors import DataError, RecipeError, ReglageError, StorageError, first_line
from ftlib.fingerprint import digest
from ftlib.recipe.file import load_recipe
from ftlib.retraining.file_ledger import Changes, LedgerState, compare
from ftlib.storage import Place
from ftlib.wording import counted, escaped, table
from ftlib.workspace import Workspace, overwrite

one_line_errors()

WITH = " --set "
"""Between a recipe's path and its overrides, as on a command line."""
NAMED = 20
"""Files that an event names at most."""


class Announced(Config):
    """What was there when the last event was sent; the rest is news."""

    files: tuple[ListedFile, ...] = ()


class Look(Config):
    """What one look at a model's data came to."""

    name: str
    """The model, or what a place was called."""
    where: str
    """The recipe or the place."""
    changes: Changes | None = None
    """Against the last event; None where it could not be listed."""
    trouble: str = ""
    """Why not."""

    @property
    def changed(self) -> bool:
        """Say whether there is something to tell."""
        return self.changes is not None and not self.changes.nothing


@dataclass
class _Watched:
    """One thing to look at."""

    name: str
    where: str
    files: Callable[[], Iterable[ListedFile]]
    recipe: str | None
    memory: Workspace
    first: dict[str, ListedFile] = field(default_factory=dict[str, ListedFile])
    trouble: str = ""

    def look(self) -> dict[str, ListedFile]:
        """List it. What cannot be listed is said in `trouble`, and looked at again the next time."""
        try:
            return {file.uri: file for file in self.files()}
        except (ReglageError, OSError) as error:
            self.trouble = first_line(error)
            return {}

    def announced(self) -> Announced:
        """Read what the last event was about. A damaged memory is an empty one: all is told once more."""
        try:
            return Announced.model_validate_json(self.memory.newest(f"watch/{self.name}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return Announced()

    def changes(self, now: dict[str, ListedFile]) -> Changes:
        """Compare two looks with the last event: a file that differs between them may still be written, and waits."""
        now = {**now}
        for uri, file in self.first.items():
            if uri not in now or now[uri].identity != file.identity:
                now[uri] = now.get(uri, file).model_copy(update={"settled": False})
        new = {uri: file.model_copy(update={"settled": False}) for uri, file in now.items() if uri not in self.first}
        before = self.announced()
        return compare(LedgerState(files=before.files), ({**now, **new}).values())


def _run_name() -> str:
    given = flow_run.parameters
    return f"watch-{len([*given['recipes'], *given['places']])}"


@flow(name="watch", flow_run_name=_run_name)
def watch(
    recipes: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    places: list[str] = [],  # noqa: B006
    endpoint_url: str | None = None,
    quiet_seconds: float = 10.0,
    work: str = "work",
) -> State[Any]:
    """Look once where models' rows come from, and send an event for each model whose files changed.

    No row is read. Returns a Completed state, named Changed or Nothing new, with a Look for each; what cannot be listed
    is a line on the page.

    Args:
        recipes: Paths of recipes, as the worker sees them; the sources that they train on are listed. Behind a path,
            what is other than the recipe says, as recipes/tickets.yaml --set publish.name=tickets-de.
        places: More places as NAME=PLACE, a folder that the worker sees or s3://bucket/prefix; NAME is told.
        endpoint_url: The S3 server of the places, if it is not AWS.
        quiet_seconds: Two looks are so far apart; a file that differs between them waits for the next run.
        work: The folder or s3://bucket/prefix that keeps what was told already.
    """
    memory = Workspace(work)
    watched = [*_of_recipes(recipes, memory), *_of_places(places, endpoint_url, memory)]
    _check(watched, quiet_seconds)
    with memory.hold("watch/watch", wait=True, waiter="watch"):
        for one in watched:
            one.first = one.look()
        if any(_news(one) for one in watched):
            time.sleep(quiet_seconds)
        looks = [_tell(one) for one in watched]
    show_markdown(artifact_key("watch"), _page(looks), "What has changed")
    return Completed(
        name="Changed" if any(look.changed for look in looks) else "Nothing new", message=_said(looks), data=looks
    )


def with_overrides(path: str, overrides: Sequence[str]) -> str:
    """Return a recipe to watch as the parameter names it, read with the overrides that its retraining has."""
    return WITH.join([path, *overrides])


def _of_recipes(recipes: Sequence[str], memory: Workspace) -> list[_Watched]:
    found: list[_Watched] = []
    for text in recipes:
        path, *overrides = (part.strip() for part in text.split(WITH))
        try:
            r = load_recipe(path, overrides)
        except ReglageError as error:
            found.append(_Watched(text, text, tuple, path, memory, trouble=first_line(error)))
            continue
        sources = [r.datasets[name].source for name in r.training_datasets()]

        def listed(sources: Sequence[Any] = sources) -> Iterable[ListedFile]:
            return [file for source in sources for file in source.list()]

        found.append(_Watched(r.publish.name, text, listed, path, memory))
    return found


def _of_places(places: Sequence[str], endpoint_url: str | None, memory: Workspace) -> list[_Watched]:
    """Take NAME=PLACE apart. Raises RecipeError for what is neither."""
    found: list[_Watched] = []
    for text in places:
        name, equals, uri = text.partition("=")
        try:
            TypeAdapter(Name).validate_python(name)
            place = Place.parse(uri, endpoint_url)
        except (ValidationError, StorageError) as error:
            why = first_line(error) if isinstance(error, StorageError) else "NAME is of a-z, 0-9, - and _"
            raise RecipeError(f"places: {text!r}: write NAME=PLACE, as tickets=s3://bucket/tickets/; {why}") from None
        if not equals or not uri:
            raise RecipeError(f"places: {text!r}: write NAME=PLACE, as tickets=s3://bucket/tickets/")

        def listed(place: Place = place) -> Iterable[ListedFile]:
            there = list_bucket(place, None) if place.remote else list_path(place.key, None)
            files = [ListedFile(uri=f.uri, version=f.version, bytes=f.bytes) for f in once(there.files)]
            if not files:  # a wrong prefix or role looks the same as a place that was emptied
                raise DataError(f"{place.uri}: nothing is there; correct the place, or wait for its first file")
            return files

        found.append(_Watched(name, place.uri, listed, None, memory))
    return found


def _check(watched: Sequence[_Watched], quiet_seconds: float) -> None:
    if not watched:
        raise RecipeError("nothing to watch: name `recipes`, or `places` as NAME=PLACE")
    names = [one.name for one in watched]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RecipeError(f"{twice!r} is watched twice; leave one out, or call the place otherwise")
    if not 0 <= quiet_seconds <= 600:
        raise RecipeError(f"quiet_seconds: got {quiet_seconds:g}, allowed is 0 to 600")


def _news(one: _Watched) -> bool:
    return not one.trouble and not one.changes(dict(one.first)).nothing


def _tell(one: _Watched) -> Look:
    """Look a second time, and send an event for what is new in both looks and the same."""
    now = {} if one.trouble else one.look()
    if one.trouble:
        return Look(name=one.name, where=one.where, trouble=one.trouble)
    look = Look(name=one.name, where=one.where, changes=(changes := one.changes(now)))
    if look.changed:
        files = {file.uri: file for file in one.announced().files} | {file.uri: file for file in changes.fresh}
        for gone in changes.vanished:
            files.pop(gone.uri, None)
        known = Announced(files=tuple(files[uri] for uri in sorted(files)))
        _emit(one, changes, known)  # first: killed in between, it is told twice
        overwrite(one.memory, f"watch/{one.name}.json", known.model_dump_json().encode())
    return look


def _emit(one: _Watched, changes: Changes, known: Announced) -> None:
    """Send the event. The same news are the same event, also after a kill."""
    counts = {kind: len(getattr(changes, kind)) for kind in ("added", "edited", "vanished", "waiting")}
    files = [file.uri for file in (*changes.fresh, *changes.vanished)][:NAMED]
    whose = {"recipe": one.recipe} if one.recipe else {"place": one.where}
    identity = digest([one.name, *([*file.identity] for file in known.files)])
    send_event(CHANGED, one.name, identity, {**whose, **counts, "files": files})


def _said(looks: Sequence[Look]) -> str:
    told = [f"{look.name}: {look.changes}" for look in looks if look.changed]
    trouble = [look.name for look in looks if look.trouble]
    unread = [f"{counted(len(trouble), 'source')} not readable ({', '.join(trouble)})"] if trouble else []
    return "; ".join([*(told or ["nothing new"]), *unread])


def _page(looks: Sequence[Look]) -> str:
    rows = [["model", "where", "new", "edited", "gone", "waiting", "known", ""]]
    for look in looks:
        of = look.changes
        counts = [of.added, of.edited, of.vanished, of.waiting] if of else []
        cells = [str(len(files)) for files in counts] or ["–"] * 4
        said = "event sent" if look.changed else escaped(look.trouble)
        rows.append([look.name, escaped(look.where), *cells, str(of.known) if of else "–", said])
    return (
        table(rows) + "\n\nFiles that differed between two looks, or that their source lets wait, are not told yet.\n"
    )
