"""Run a retraining up to its decision: what is new, whether to train, challenger against champion, promotion."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from prefect.runtime import flow_run
from pydantic import ValidationError

from flows.retraining.approval import Approval
from flows.retraining.champion import InPlace, against_champion, in_place, measured
from flows.retraining.fresh_data import Listing, list_sources, news, pinned, used_rows
from flows.run.record import remember
from flows.run.steps import find_best, inputs, prepare, publish
from flows.run.values import Data
from ftlib.config import Config
from ftlib.costs.prices import Cost
from ftlib.data.forgotten import read_requests
from ftlib.data.identity import identities
from ftlib.errors import ConflictError, DataError
from ftlib.evaluation.measured import EvalReport
from ftlib.evaluation.results import Difference
from ftlib.fingerprint import digest
from ftlib.models.checkpoint import task_in
from ftlib.models.folder import labels_of
from ftlib.models.reference import ModelRef
from ftlib.published.ancestry import Ancestry
from ftlib.published.row_index import contains, packed
from ftlib.published.work_roots import note_publication
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.preflight import check_registry
from ftlib.recipe.recipe import Recipe
from ftlib.registry import CHAMPION, AliasEntry, ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.render import html_with_outcome
from ftlib.report.report import Report
from ftlib.retraining.decisions import Champion, News, Verdict, nothing_to_read, worth_promoting, worth_training
from ftlib.retraining.file_ledger import Changes, Decision
from ftlib.retraining.live_verdict import Watched, hear, live_reasons
from ftlib.retraining.policy import AllRows
from ftlib.wording import counted, dated
from ftlib.workspace import Workspace, overwrite
from tasks.runner import Runner, StageRun

ATTEMPTS = 3
"""How often a promotion that lost the race is judged against the new champion."""


class Challenge(Config):
    """A retraining so far: what it saw, what it decided and why."""

    run: str = ""
    """The id of the flow run; it stays the same when that is tried again."""
    recipe: Recipe
    what: Literal["skipped", "waiting", "not_promoted", "held", "superseded", "promoted"]
    reasons: tuple[str, ...]
    listing: Listing
    champion: Champion | None = None
    """The version in place when it was judged."""
    hold: AliasEntry | None = None
    """The person's rollback that held promotions when it was judged."""
    supersedes: tuple[str, ...] = ()
    """Links to the older runs that waited for approval, in Markdown."""
    worth: Verdict | None = None
    """Why it trained, or did not."""
    news: dict[str, News] = {}
    findings: tuple[str, ...] = ()
    """What the monitor had found of the version in place when it began to train, by their keys."""
    evidence: Evidence | None = None
    champion_cells: tuple[EvalReport, ...] = ()
    differences: tuple[Difference, ...] = ()
    """Challenger - champion."""
    report: Report | None = None
    version: ModelVersion | None = None
    steps: tuple[StageRun, ...] = ()
    cost: Cost | None = None
    """What this run used, by the prices of the day; None where there were none."""

    @property
    def title(self) -> str:
        """Return the name of the state that the run ends in."""
        return {
            "skipped": "Skipped",
            "waiting": "Waits for approval",
            "not_promoted": "Not promoted",
            "held": "Held",
            "superseded": "Superseded",
            "promoted": "Promoted",
        }[self.what]

    @property
    def changes(self) -> Mapping[str, Changes]:
        """Return what is new in each source."""
        return self.listing.changes

    def line(self) -> str:
        """Say in a sentence what became of it."""
        published = f". {self.version.line()}" if self.version else ""
        return f"{self.title}: {'; '.join(self.reasons)}{published}"

    def ended(
        self, what: Literal["waiting", "not_promoted", "held", "superseded", "promoted"], *reasons: str
    ) -> "Challenge":
        """Return it with an outcome."""
        return self.model_copy(update={"what": what, "reasons": reasons})

    def write(self, work: Workspace) -> None:
        """Write `retrain.json` and, if it trained, `report.html`, each whole or not at all."""
        name = self.recipe.name
        if self.report:
            text = self.report.local(Path(self.report.html)).read_text(encoding="utf-8")
            overwrite(work, f"runs/{name}/report.html", html_with_outcome(text, dated(self.line())).encode())
        if self.steps:
            remember(work, name, self.steps)
        if self.version:
            note_publication(work, name, self.recipe.publish.to, self.version)
        overwrite(work, f"runs/{name}/retrain.json", self.model_dump_json(indent=1).encode())


def judged_before(r: Recipe, work: Workspace, run_id: str) -> Challenge | None:
    """Return what this flow run had come to before it was killed, or asked; None where it has still to judge.

    The case is kept before the alias moves. To look again would find the rows in the new champion, and nothing to do.
    What a person was asked is kept too: it is that version which is promoted, whatever the recipe says by then, and
    for the reason that there was, though the monitor may have found something else since. A request to forget is
    heard: then it is judged anew, and asked anew.
    """
    return _behind_its_promotion(r, work, run_id) or _asked(r, work, run_id)


def keep_asked(judged: Challenge, work: Workspace) -> None:
    """Keep the case that a person is asked about."""
    overwrite(work, asked_of(judged.recipe, work, judged.run), judged.model_dump_json(indent=1).encode())


def drop_asked(r: Recipe, work: Workspace, run_id: str) -> None:
    """Forget what a run asked about: it is settled, or another took its place."""
    for name in work.names(f"runs/{r.name}/asked"):
        if name.startswith(run_id):
            work.drop(f"runs/{r.name}/asked/{name}")


def _asked(r: Recipe, work: Workspace, run_id: str) -> Challenge | None:
    if not run_id:
        return None
    try:
        return Challenge.model_validate_json(work.newest(asked_of(r, work, run_id)).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _behind_its_promotion(r: Recipe, work: Workspace, run_id: str) -> Challenge | None:
    try:
        kept = Challenge.model_validate_json(work.newest(f"runs/{r.name}/retrain.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if not run_id or kept.run != run_id or kept.version is None:
        return None
    if kept.what != "waiting":
        return kept
    behind = (kept.champion.sequence if kept.champion else 0) + 1
    entry = AliasLog(r.registry_store(), r.publish.name, r.retrain.alias).read(behind)
    moved = entry is not None and entry.version == kept.version.version and not entry.rolled_back
    return kept.ended("promoted", *kept.reasons) if moved else None


def challenge(r: Recipe, run: Runner, run_id: str) -> Challenge:
    """Look for news, train if they are worth it, publish, and judge. Nothing is promoted yet."""
    check_registry(r, run.work)
    registry = ModelRegistry(r.registry_store())
    listing = list_sources(r, registry.store, run.work, listing_of(run_id))
    champion = in_place(registry, r)
    so_far = Challenge(
        run=run_id,
        recipe=r,
        what="skipped",
        reasons=(),
        listing=listing,
        champion=champion.facts if champion else None,
    )
    forgotten = to_unlearn(r, run.work, champion, registry)
    if not forgotten and (nothing := nothing_to_read(listing.changes, so_far.champion)):
        return so_far.model_copy(update={"reasons": nothing.reasons, "worth": nothing})
    folder = champion.pull(registry, run.work) if champion else None
    asked, r = r, _unlearning(r) if forgotten else r
    recipe = _starting(r, folder)
    files = pinned(r, listing, run.work)
    names = labels_of(folder) if folder and not r.tasks else ()
    given = inputs(recipe, run.work, files, used_rows(r, listing, files, champion), names)
    given = given._replace(task_names=_task_names(r, folder))
    data = run.through(lambda: prepare(recipe, given))
    fresh = news(r, listing, data, champion, folder)
    live = _live(r, run.work, so_far.champion)
    worth = worth_training(fresh, so_far.champion, r.retrain, forgotten, tuple(live.values()))
    if worth.go and r != asked:
        note = "the champion's weights know them, so this starts from the recipe's model, on every row"
        worth = worth.model_copy(update={"reasons": (*worth.reasons, note)})
    judged = {"reasons": worth.reasons, "worth": worth, "news": fresh, "findings": tuple(live)}
    so_far = so_far.model_copy(update=judged)
    if not worth.go:
        return so_far
    _check_labels(r, data.labels, names)
    for task, before in given.task_names.items():
        _check_labels(r, data.tasks[task], before)
    evidence = _named(run.through(lambda: find_best(recipe, run.work, data, data.model)), champion)
    _, page, result = run.through(lambda: publish(evidence))
    so_far = so_far.model_copy(update={"evidence": evidence, "report": page, "steps": tuple(run.steps)})
    if isinstance(result, Refusal):
        return so_far.ended("not_promoted", *result.reasons)
    return judge(r, run, so_far.model_copy(update={"version": result}), registry)


def _live(r: Recipe, work: Workspace, champion: Champion | None) -> dict[str, str]:
    """Return what `monitor` found of the champion's answers that no retraining has heard: a sentence by key."""
    return live_reasons(work, _watched(r), champion.version, champion.sequence) if champion else {}


def _watched(r: Recipe) -> Watched:
    return Watched(r.publish.name, r.retrain.alias, r.registry_store().identity)


def to_unlearn(r: Recipe, work: Workspace, champion: InPlace | None, registry: ModelRegistry) -> int:
    """Count the rows to be forgotten that the champion was trained on, or a version of the model whose weights it has.

    A request names the rows that it saw, and by key the versions that know them, whatever snapshots are left.
    """
    asked = [one for one in read_requests(work) if one.dataset is None or one.dataset in r.training_datasets()]
    if champion is None or not asked:
        return 0
    version = str(champion.version)
    before = Ancestry.read(registry).ancestors(version)  # of other names: the recipe's model, which stays
    line = {version, *(name for name in before if name.rpartition("@")[0] == champion.version.name)}
    rows = defaultdict[str, set[str]](set)
    learnt: set[str] = set()
    for one in asked:
        for key, of_key in one.keys.items():
            rows[key] |= {*of_key}
        learnt |= {key for key, versions in one.learnt.items() if line & {*versions}}
    ids = sorted({row for of_key in rows.values() for row in of_key})
    trained_on: set[str] = set()
    if ids:
        among = contains(champion.trained_on(champion.pull(registry, work)), packed(ids))
        trained_on = {ids[i] for i in among.nonzero()[0]}
    return len(trained_on) + sum(rows[key].isdisjoint(trained_on) for key in learnt)


def listing_of(run_id: str) -> str:
    """Return where a retraining keeps what it saw first, until it is settled: while it is there, the run may go on."""
    return f"listings/{run_id}.json"


def asked_of(r: Recipe, work: Workspace, run_id: str) -> str:
    """Return where the case lies that a person was asked about; one of other requests to forget is another."""
    requests = digest([repr(request) for request in read_requests(work)])
    return f"runs/{r.name}/asked/{run_id}-{requests[:16]}.json"


def _unlearning(r: Recipe) -> Recipe:
    """Return a recipe that takes nothing of the champion's weights: they know the row, and pass it on."""
    rows = AllRows() if r.retrain.rows.kind == "replay" else r.retrain.rows  # without those weights a share is too few
    retrain = r.retrain.model_copy(update={"start": "base", "rows": rows})
    return r.model_copy(update={"retrain": retrain})


def _starting(r: Recipe, champion: Path | None) -> Recipe:
    if champion is None or r.retrain.start == "base":
        return r
    return r.model_copy(update={"model": ModelRef(path=str(champion))})


def _named(evidence: Evidence, champion: InPlace | None) -> Evidence:
    """Call the start of the training by the version's name, not by the folder it was pulled to."""
    if champion is None or evidence.recipe.retrain.start == "base":
        return evidence
    name = str(champion.version)
    recipe = evidence.recipe.model_copy(update={"model": ModelRef(path=name)})
    return evidence.model_copy(update={"recipe": recipe, "model": evidence.model.model_copy(update={"name": name})})


def _task_names(r: Recipe, champion: Path | None) -> dict[str, tuple[str, ...]]:
    """Return the labels of the champion's tasks that the recipe has too, in the order of its logits."""
    if champion is None:
        return {}
    folders = {task: task_in(champion, task) for task in r.tasks}
    return {task: labels_of(folder) for task, folder in folders.items() if folder.is_dir()}


def _check_labels(r: Recipe, labels: Sequence[str], names: Sequence[str]) -> None:
    """Refuse labels that appear or vanish, unless the recipe opts in: they are more often a mistake than news."""
    if not names or not labels or r.retrain.labels_may_change:
        return
    before, now = identities(names), identities(labels)
    new, gone = (sorted(a[key] for key in a.keys() - b.keys()) for a, b in ((now, before), (before, now)))
    if new or gone:
        raise DataError(
            f"labels differ from the champion's: new {', '.join(new) or 'none'}, gone {', '.join(gone) or 'none'}; "
            "correct the rows, or set retrain.labels_may_change: true"
        )


def judge(r: Recipe, run: Runner, so_far: Challenge, registry: ModelRegistry) -> Challenge:
    """Measure the version in place now on the challenger's rows, and say whether the challenger may replace it."""
    evidence, version = so_far.evidence, so_far.version
    if evidence is None or version is None:
        raise ValueError("only a published challenger can be judged")
    champion = in_place(registry, r)
    so_far = so_far.model_copy(update={"hold": registry.hold(r.publish.name, r.retrain.alias)})
    if champion is None:
        return so_far.ended("waiting", "the first version of this model").model_copy(update={"champion": None})
    if champion.facts.version == version.version:
        reason = f"version {version.version} is in place: these rows give the same version again"
        return so_far.ended("not_promoted", reason).model_copy(update={"champion": champion.facts})
    if taken_back := taken_back_by_rule(registry.history(r.publish.name, r.retrain.alias), version.version):
        reason = (
            f"version {version.version} was taken back by entry {taken_back.sequence} ({taken_back.why}), and these "
            "rows give it again; a person may promote it"
        )
        return so_far.ended("not_promoted", reason).model_copy(update={"champion": champion.facts})
    first = evidence.checkpoints[-1]
    tasks = {task.name: task.labels for task in first.tasks}
    data = Data(model=evidence.model, raw=evidence.raw, prepared=evidence.prepared, labels=first.labels, tasks=tasks)
    folder = champion.pull(registry, run.work)
    cells = measured(r, run, data, folder, evidence.checkpoints)
    ours, trained = evidence.selection.chosen.name, champion.trained_on(folder)
    differences, left_out = against_champion(ours, evidence.final, r, cells, run.work, trained)
    compared = r.retrain.compare or r.select.by
    verdict = worth_promoting(differences, r.retrain, compared, r.metric(compared)[1])
    note = [f"{counted(left_out, 'held-out row')} that the champion was trained on left out"] if left_out else []
    return so_far.ended("waiting" if verdict.go else "not_promoted", *verdict.reasons, *note).model_copy(
        update={
            "champion": champion.facts,
            "champion_cells": cells,
            "differences": differences,
            "steps": tuple(run.steps),
        }
    )


def taken_back_by_rule(history: Sequence[AliasEntry], version: int) -> AliasEntry | None:
    """Return the entry by which a rule went back from a version; None once a person or a rule promoted it again."""
    for before, entry in reversed([*pairwise(history)]):
        if entry.version == version:
            return None
        if entry.rolled_back == "rule" and before.version == version:
            return entry
    return None


def settle(
    r: Recipe, run: Runner, challenge: Challenge, approval: Approval | None, shown_hold: int | None = None
) -> Challenge:
    """Promote a challenger that may be, and enter the decision in the ledger.

    `shown_hold` is the rollback that the person who approved was told of, by its place in the alias's history. The
    files of a skipped run stay new for the next one, unless none of their rows is.
    """
    registry = ModelRegistry(r.registry_store())
    if challenge.what == "skipped":
        if challenge.worth and challenge.worth.considered:
            skipped = Decision(what="skipped", reasons=challenge.reasons)
            challenge.listing.record(registry.store, r, skipped, challenge.run)
        return challenge
    if challenge.what == "waiting":
        challenge = _answered(r, challenge, approval) or _promoted(r, run, challenge, registry, approval, shown_hold)
    if challenge.champion:
        hear(run.work, _watched(r), challenge.findings)
    decision = Decision(
        what="promoted" if challenge.what == "promoted" else "not_promoted",
        reasons=challenge.reasons,
        version=challenge.version.version if challenge.version else None,
    )
    if not challenge.listing.record(registry.store, r, decision, challenge.run):
        note = "another retraining considered these files at the same time"
        challenge = challenge.model_copy(update={"reasons": (*challenge.reasons, note)})
    return challenge


def _answered(r: Recipe, challenge: Challenge, approval: Approval | None) -> Challenge | None:
    """Return the end if a person is asked and did not say yes."""
    if r.retrain.approval == "automatic" or (approval and approval.decision == "promote"):
        return None
    if approval:
        return challenge.ended("not_promoted", f"{approval.who} said no: {approval.why or 'no reason given'}")
    held = [held_by(challenge.hold)] if challenge.hold else []
    asked = f"a person has to agree: {promote_command(r, challenge)}"
    return challenge.ended("not_promoted", *challenge.reasons, *held, asked)


def promote_command(r: Recipe, challenge: Challenge) -> str:
    """Return the command by which a person promotes the challenger."""
    name = challenge.version.name if challenge.version else r.publish.name
    number = challenge.version.version if challenge.version else 0
    to, alias = r.publish.to, r.retrain.alias
    other = "" if alias == CHAMPION else f" --alias {alias}"
    return f"reglage registry promote {name}@{number} --registry {to.store().uri}{to.place().server_option()}{other}"


def held_by(hold: AliasEntry) -> str:
    """Say who went back, when and why."""
    why = f" ({hold.why})" if hold.why else ""
    return (
        f"{hold.who} rolled {hold.name}@{hold.alias} back to version {hold.version} at {hold.at}{why}: that holds "
        "promotions until a person promotes"
    )


def _promoted(
    r: Recipe,
    run: Runner,
    challenge: Challenge,
    registry: ModelRegistry,
    approval: Approval | None,
    shown_hold: int | None,
) -> Challenge:
    """Move the alias; if somebody else moved it meanwhile, judge again against the new champion.

    A person's rollback is not gone past, unless by a person who was told of it. One that comes between the question
    whether there is one and the move makes the move lose the race.
    """
    who = approval.who if approval else f"retrain {flow_run.name or ''}".strip()
    comment = [approval.why] if approval and approval.why else []
    for _ in range(ATTEMPTS):
        if challenge.what != "waiting" or challenge.version is None:
            return challenge
        expected = challenge.champion.sequence if challenge.champion else None
        hold = registry.hold(r.publish.name, r.retrain.alias)
        if hold and not (approval and shown_hold == hold.sequence):
            unaware = [f"{approval.who} agreed before that"] if approval else []
            challenge = challenge.model_copy(update={"hold": hold})
            how = f"to promote the challenger: {promote_command(r, challenge)}"
            return challenge.ended("held", held_by(hold), *unaware, *challenge.reasons, how)
        try:
            why = "; ".join([*challenge.reasons, *comment])
            challenge.write(run.work)
            registry.promote(r.publish.name, r.retrain.alias, challenge.version.version, expected, who, why)
        except ConflictError:
            challenge = judge(r, run, challenge, registry)
        else:
            return challenge.ended("promoted", *challenge.reasons)
    return challenge.ended("not_promoted", f"the alias was moved by others {ATTEMPTS} times while this was judged")
