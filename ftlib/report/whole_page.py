"""The report's page: which sections it has, and which plots are drawn for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftlib.config import REPORT
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.evaluation.measured import tables_in
from ftlib.evaluation.results import Difference, adjusted, differences, results, retained_reference
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.preflight import audit_notes, rare_label_notes, task_spelling_notes
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.remarks import interpolation_remarks
from ftlib.report import diagnosis, sections
from ftlib.report.alignment_tax import tax_of, tax_section
from ftlib.report.answers import answer_figures, answer_tables, shown
from ftlib.report.box_sheet import box_sheet
from ftlib.report.contact_sheet import contact_sheet
from ftlib.report.content import Figure, Page
from ftlib.report.figures import Curve, training_curves
from ftlib.report.forgetting import divergences
from ftlib.report.learning_curve import learning_section
from ftlib.report.phases import learnt_in, phases_section, watched_metric
from ftlib.report.policies import is_policy, policy_section
from ftlib.report.preferences import preference_section
from ftlib.report.principles import principles_section
from ftlib.report.pruned import pruned_section
from ftlib.report.strip import sample_strip
from ftlib.report.suspects import suspects_section
from ftlib.report.tradeoff import Line, Point, alpha_curve
from ftlib.training.curves import FILE, read
from ftlib.wording import counted
from ftlib.workspace import Workspace

_ROLES = ("target", "shifted", "retained")


def whole_page(evidence: Evidence, work: Workspace, folder: Path) -> Page:
    """Return the page, its plots written into the folder. Raises StorageError if a table of outcomes is gone."""
    recipe, chosen = evidence.recipe, evidence.selection.chosen.name
    rows = results(evidence.final, evidence.selection, recipe.evaluations)
    end, theta0 = evidence.checkpoints[-1].phase, evidence.checkpoints[max(0, len(evidence.checkpoints) - 2)].phase
    parts = dict.fromkeys((end, theta0))
    same = [name for name in parts if _same_weights(evidence, name)]
    compared = adjusted([d for name in parts if name not in same for d in _differences(evidence, work, chosen, name)])
    confidence = max(evaluation.confidence for evaluation in recipe.evaluations.values())
    notes = (
        *task_spelling_notes(
            recipe,
            evidence.prepared,
            evidence.checkpoints[-1].labels,
            {task.name: task.labels for task in evidence.checkpoints[-1].tasks},
        ),
        *rare_label_notes(recipe, evidence.prepared),
        *audit_notes(recipe, evidence.prepared),
    )
    shown = [
        sections.selection_section(
            recipe,
            evidence.selection,
            evidence.candidates,
            evidence.sweep,
            _alpha_figures(evidence, folder),
            [*interpolation_remarks(recipe)],
        ),
        sections.results_section(rows, confidence),
        sections.differences_section(compared, chosen, same),
        _phase_by_phase(evidence, work),
        _forgetting(evidence, work),
        _tax(evidence, work, folder),
        sections.slices_section(evidence.final, evidence.selection, recipe.evaluations),
        _diagnosis(evidence, work, folder),
        suspects_section(evidence, work),
        principles_section(evidence.upheld),
        pruned_section(evidence.checkpoints, folder),
        policy_section(evidence.ends, folder),
        preference_section(evidence.ends, folder),
        learning_section(evidence, work, folder),
        sections.training_section(_with_facts(evidence.trained), _training_figures(evidence.ends, folder)),
        sections.data_section(evidence.raw, evidence.prepared, notes),
        sections.lineage_section(
            recipe, evidence.model, evidence.raw, evidence.prepared, evidence.trained, evidence.selection
        ),
    ]
    phases = ", then ".join(
        f"{p.name} ({p.tuning.kind.replace('_', ' ')} on {', '.join(p.parts)})" for p in recipe.phases
    )
    return Page(
        title=recipe.name,
        subtitle=f"{evidence.model.name}: {phases}. Published, if the gates agree, as {recipe.publish.name}.",
        verdict=_verdict(evidence),
        tiles=sections.tiles(recipe, rows, [d for d in compared if d.theirs == end]),
        sections=[section for section in shown if section is not None],
    )


def _verdict(evidence: Evidence) -> str:
    chosen = evidence.selection.chosen
    if len(evidence.candidates.members) == 1:
        return f"Chosen: {chosen.name}, the only candidate."
    if chosen.alpha is None:
        return f"Chosen: {chosen.name}, of {counted(len(evidence.candidates.members), 'candidate')}."
    return f"Chosen: {chosen.name}, on the line from {chosen.start.phase} (alpha 0) to {chosen.end.phase} (alpha 1)."


def _differences(evidence: Evidence, work: Workspace, ours: str, theirs: str) -> list[Difference]:
    load = tables_in(work)
    return list(differences(ours, theirs, evidence.final, evidence.recipe.evaluations, load, evidence.recipe.seed))


def _same_weights(evidence: Evidence, phase: str) -> bool:
    """Say whether the chosen model is that checkpoint: alpha 0 and 1 are copies, and no copy differs from itself."""
    return evidence.selection.chosen.weights == next(c.weights for c in evidence.checkpoints if c.phase == phase)


def _phase_by_phase(evidence: Evidence, work: Workspace) -> sections.Section | None:
    recipe, chosen = evidence.recipe, evidence.selection.chosen.name
    learnt = learnt_in(recipe)
    compared = [
        difference
        for phase in dict.fromkeys(learnt.values())
        if phase != recipe.phases[-1].name and not _same_weights(evidence, phase)
        for difference in _differences(evidence, work, chosen, phase)
        if learnt.get(difference.evaluation) == phase
        and difference.metric == watched_metric(recipe, difference.evaluation)
    ]
    return phases_section(recipe, evidence.final, chosen, adjusted(compared))


def _forgetting(evidence: Evidence, work: Workspace) -> sections.Section:
    roles = {name: evaluation.role for name, evaluation in evidence.recipe.evaluations.items()}
    retained, shifted = ([name for name in roles if roles[name] == role] for role in ("retained", "shifted"))
    # Where no set of old skills is named, how far the answers moved is still known, on the rows farthest from home.
    watched = retained or shifted or list(roles)
    # What a graft may forget is what the model could that it was put on, which is the first candidate.
    onto = evidence.candidates.members[0].end if evidence.onto else None
    reference = onto or retained_reference(evidence.answering)
    per = "token" if KINDS[evidence.recipe.kind(evidence.recipe.phases[-1])].language else "row"
    if reference is None or evidence.selection.chosen.weights == reference.weights:
        same = reference is not None
        return sections.forgetting_section([], {}, reference, watched, named=bool(retained), per=per, same=same)
    measured = _differences(evidence, work, evidence.selection.chosen.name, reference.phase) if retained else []
    kept = adjusted([d for d in measured if d.evaluation in retained])
    moved = divergences(evidence, work, reference, watched)
    return sections.forgetting_section(kept, moved, reference, watched, named=bool(retained), per=per)


def _tax(evidence: Evidence, work: Workspace, folder: Path) -> sections.Section | None:
    """Show the rule's metric against the first retained one; None where nothing moves along a line."""
    recipe, target = evidence.recipe, evidence.recipe.select.by
    named = [path for path in (target, recipe.select.subject_to, *recipe.select.plus) if path]
    kept = [name for name, e in recipe.evaluations.items() if e.role == "retained" and name != target.partition("/")[0]]
    tax = tax_of(evidence, work, target, _path(recipe, kept[0], named) if kept else None)
    return tax and tax_section(tax, folder)


def _diagnosis(evidence: Evidence, work: Workspace, folder: Path) -> sections.Section | None:
    """Show the path between the models, and what the chosen one answers."""
    load, chosen = tables_in(work), evidence.selection.chosen.name
    tables = {name: load(cell) for name, cell in evidence.measured(chosen).items()}
    seen = [cell for report in evidence.sweep for cell in report.measured if cell.candidate == chosen]
    validation = {cell.evaluation: load(cell) for cell in seen}
    labelled, boxed = shown(tables, "contact_sheet"), shown(tables, "boxes")
    splits = {name: split_file(_rows_of(evidence, name).path, REPORT) for name in (*labelled, *boxed)}
    figures = [*_path_figures(evidence, work, folder), *answer_figures(folder, tables)]
    sheets = contact_sheet(folder, labelled, splits), box_sheet(folder, boxed, splits)
    figures += [sheet for sheet in sheets if sheet]
    return sections.diagnosis_section(
        figures, answer_tables(tables, validation, evidence.recipe.evaluations, evidence.recipe.seed)
    )


def _rows_of(evidence: Evidence, evaluation: str) -> PreparedDataset:
    return evidence.prepared[evidence.recipe.evaluations[evaluation].dataset]


def _on_line(evidence: Evidence) -> list[Candidate]:
    """Return the candidates between both ends that have an alpha; none where the chosen one is not among them."""
    line = [member for member in evidence.candidates.members if member.alpha is not None]
    names = {member.name for member in line}
    alphas = {member.alpha for member in line}
    return line if {0.0, 1.0} <= alphas and evidence.selection.chosen.name in names else []


def _path_figures(evidence: Evidence, work: Workspace, folder: Path) -> list[Figure]:
    """Draw loss and layers along the line between the ends; nothing where the candidates are no line."""
    members = _on_line(evidence)
    alphas = [member.alpha for member in members if member.alpha is not None]
    if not members:
        return []
    losses: dict[str, list[float]] = {}
    of_scores = False
    for name in evidence.recipe.evaluations:
        cells = {cell.candidate: cell for r in evidence.sweep for cell in r.measured if cell.evaluation == name}
        tables = [tables_in(work)(cells[member.name]) for member in members]
        of_scores = of_scores or "regression" in tables[0].shown_as
        losses[name] = [float(table.nll.sum() / table.targets.sum()) for table in tables]
    chosen = evidence.selection.chosen
    alpha = chosen.alpha or 0.5
    if "adapter" in (chosen.start.form, chosen.end.form):  # no file holds what it makes of each layer
        return [diagnosis.loss_path(folder, alphas, losses, of_scores=of_scores)]
    from ftlib.merging.layer_distances import layer_distances

    layers = layer_distances(chosen.start.weights_folder, chosen.end.weights_folder, alpha)
    moved = [diagnosis.Moved(at.layer, at.relative, at.survives if at.moved else None) for at in layers]
    return [diagnosis.loss_path(folder, alphas, losses, of_scores=of_scores), diagnosis.moved(folder, moved, alpha)]


def _alpha_figures(evidence: Evidence, folder: Path) -> list[Figure]:
    members = _on_line(evidence)
    alphas = [member.alpha for member in members if member.alpha is not None]
    if not members:
        return []
    chosen = [member.name for member in members].index(evidence.selection.chosen.name)
    figures: list[Figure] = []
    for name, paths in _drawn(evidence.recipe).items():
        lines = [line for path in paths if (line := _line(evidence, path)) is not None]
        if lines:
            figures.append(alpha_curve(folder, alphas, chosen, lines, name))
    return [*figures, *filter(None, [sample_strip(evidence, folder)])]


def _drawn(recipe: Recipe) -> dict[str, list[str]]:
    """Return the plots' names with the metrics (evaluation/metric) they draw, the first two against each other.

    The first plot is of what the rule looks at, against an evaluation of another role if that is a single metric; the
    roles that it leaves out have plots of their own.
    """
    by, evaluations = recipe.select.by, recipe.evaluations
    named = list(dict.fromkeys(path for path in (by, recipe.select.subject_to, *recipe.select.plus) if path))

    def role(path: str) -> int:
        return _ROLES.index(evaluations[path.partition("/")[0]].role)

    firsts = {role(path): path for path in reversed([_path(recipe, name, named) for name in evaluations])}
    others = [firsts[i] for i in sorted(firsts) if i != role(by)]
    rule = named if len(named) > 1 else [by, *others[:1]]
    left_out = [path for path in others if role(path) not in map(role, rule)]
    plots = {"alpha_curve": rule, **{f"{_ROLES[role(path)]}_curve": [by, path] for path in left_out}}
    # What the model is for lies on the x axis, whichever of the two decides.
    return {name: [*sorted(paths[:2], key=role), *paths[2:]] for name, paths in plots.items()}


def _path(recipe: Recipe, evaluation: str, named: Sequence[str]) -> str:
    """Return an evaluation's metric that the rule names, there or elsewhere; its first one if there is none."""
    kinds = [metric.name for metric in recipe.evaluations[evaluation].metrics]
    named_here = [path for path in named if path.startswith(f"{evaluation}/")]
    elsewhere = (path.partition("/")[2] for path in named)
    metric = next((kind for kind in elsewhere if kind in kinds), kinds[0])
    return named_here[0] if named_here else f"{evaluation}/{metric}"


def _line(evidence: Evidence, path: str) -> Line | None:
    """Return a metric along alpha; None where it is undefined at some of them."""
    name, _, metric = path.partition("/")
    better = {kind.name: kind.higher_is_better for kind in evidence.recipe.evaluations[name].metrics}
    cells = {cell.candidate: cell for r in evidence.sweep for cell in r.measured if cell.evaluation == name}
    values = [cells[member.name].metrics[metric].numbers() for member in _on_line(evidence)]
    points = tuple(Point(*three) for three in values if three is not None)
    # A sum has no panel of its own: its curve is in the words and the table.
    curve = evidence.selection.curve if path == evidence.recipe.select.by and not evidence.recipe.select.plus else ()
    numbers = [(one.alpha, one.expected.numbers()) for one in curve]
    drawn = tuple((alpha, Point(*three)) for alpha, three in numbers if three is not None)
    return Line(name, metric, points, better[metric], drawn) if len(points) == len(values) else None


def _training_figures(checkpoints: Sequence[Checkpoint], folder: Path) -> list[Figure]:
    curves = [_curve(checkpoint) for checkpoint in checkpoints[1:] if not is_policy(checkpoint)]
    curves = [curve for curve in curves if len(curve.loss) > 1 or len(curve.validation) > 1]
    return [training_curves(folder, curves)] if curves else []


def _curve(checkpoint: Checkpoint) -> Curve:
    records = read(checkpoint.path / FILE)

    def series(name: str) -> list[tuple[float, float]]:
        return [(record["step"], record[name]) for record in records if name in record]

    return Curve(checkpoint.phase, series("loss"), series("validation_loss"), series("learning_rate"))


def _with_facts(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Return the base, and the checkpoints that something was found out about: a phase's, and what was rounded."""
    return [one for i, one in enumerate(checkpoints) if i == 0 or one.facts]
