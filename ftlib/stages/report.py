"""Everything a run measured, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Checkpoint, Report
from ftlib.counted import counted
from ftlib.evidence import Evidence
from ftlib.fingerprint import Job
from ftlib.outcomes import ScoreOutcomes, tables_in
from ftlib.page import diagnosis, render, sections
from ftlib.page.answers import answer_figures, answer_tables
from ftlib.page.content import Figure, Page
from ftlib.page.figures import Curve, training_curves
from ftlib.page.tradeoff import Line, Point, alpha_curve
from ftlib.preflight import spelling_notes
from ftlib.recipe import Recipe
from ftlib.results import Difference, adjusted, differences, results, retained_reference
from ftlib.stages.forgetting import divergences
from ftlib.training.curves import FILE, read
from ftlib.workspace import Workspace

_ROLES = ("target", "shifted", "retained")


class ReportJob(Job):
    """What the page shows."""

    stage: ClassVar[str] = "report"
    version: ClassVar[int] = 7

    evidence: Evidence


def report(job: ReportJob, work: Workspace) -> Report:
    """Write `report.html` (self-contained), `report.md` and the plots as SVG and PNG.

    The same records give the same bytes. Raises StorageError if a table of outcomes is gone.
    """

    def build(folder: Path) -> Report:
        page = _page(job.evidence, work, folder)
        (folder / "report.html").write_text(render.html(page), encoding="utf-8")
        (folder / "report.md").write_text(render.markdown(page), encoding="utf-8")
        plots = sorted(path.name for path in folder.iterdir() if path.suffix in (".svg", ".png"))
        return Report(html="report.html", markdown="report.md", plots=tuple(plots))

    return work.once(job, Report, build)


def _page(found: Evidence, work: Workspace, folder: Path) -> Page:
    recipe, chosen = found.recipe, found.selection.chosen.name
    rows = results(found.final, found.selection, recipe.evaluations)
    end, theta0 = found.checkpoints[-1].phase, found.checkpoints[max(0, len(found.checkpoints) - 2)].phase
    parts = dict.fromkeys((end, theta0))
    same = [name for name in parts if _same_weights(found, name)]
    compared = adjusted([d for name in parts if name not in same for d in _differences(found, work, chosen, name)])
    confidence = max(evaluation.confidence for evaluation in recipe.evaluations.values())
    shown = [
        sections.selection_section(found.selection, found.candidates, found.sweep, _alpha_figures(found, folder)),
        sections.results_section(rows, confidence),
        sections.differences_section(compared, chosen, same),
        _forgetting(found, work),
        sections.slices_section(found.final, found.selection, recipe.evaluations),
        _diagnosis(found, work, folder),
        sections.training_section(found.checkpoints, _training_figures(found.checkpoints, folder)),
        sections.data_section(found.raw, found.prepared, spelling_notes(found.prepared, found.checkpoints[0].labels)),
        sections.lineage_section(recipe, found.model, found.raw, found.prepared, found.checkpoints, found.selection),
    ]
    phases = ", then ".join(f"{p.name} ({p.tuning.kind.replace('_', ' ')} on {p.dataset})" for p in recipe.phases)
    return Page(
        title=recipe.name,
        subtitle=f"{found.model.name}: {phases}. Published, if the gates agree, as {recipe.publish.name}.",
        verdict=_verdict(found),
        tiles=sections.tiles(recipe, rows, [d for d in compared if d.theirs == end]),
        sections=[section for section in shown if section is not None],
    )


def _verdict(found: Evidence) -> str:
    chosen = found.selection.chosen
    if len(found.candidates.members) == 1:
        return f"Chosen: {chosen.name}, the only candidate."
    if chosen.alpha is None:
        return f"Chosen: {chosen.name}, of {counted(len(found.candidates.members), 'candidate')}."
    return f"Chosen: {chosen.name}, on the line from {chosen.start.phase} (alpha 0) to {chosen.end.phase} (alpha 1)."


def _differences(found: Evidence, work: Workspace, ours: str, theirs: str) -> list[Difference]:
    load = tables_in(work.root)
    return list(differences(ours, theirs, found.final, found.recipe.evaluations, load, found.recipe.seed))


def _same_weights(found: Evidence, phase: str) -> bool:
    """Say whether the chosen model is that checkpoint: alpha 0 and 1 are copies, and no copy differs from itself."""
    return found.selection.chosen.weights == next(c.weights for c in found.checkpoints if c.phase == phase)


def _forgetting(found: Evidence, work: Workspace) -> sections.Section:
    roles = {name: evaluation.role for name, evaluation in found.recipe.evaluations.items()}
    retained, shifted = ([name for name in roles if roles[name] == role] for role in ("retained", "shifted"))
    # Where no set of old skills is named, how far the answers moved is still known, on the rows farthest from home.
    watched = retained or shifted or list(roles)
    reference = retained_reference(found.checkpoints)
    if reference is None or _same_weights(found, reference.phase):
        return sections.forgetting_section([], {}, reference, watched, named=bool(retained), same=reference is not None)
    measured = _differences(found, work, found.selection.chosen.name, reference.phase) if retained else []
    kept = adjusted([d for d in measured if d.evaluation in retained])
    moved = divergences(found, work, reference, watched)
    return sections.forgetting_section(kept, moved, reference, watched, named=bool(retained))


def _diagnosis(found: Evidence, work: Workspace, folder: Path) -> sections.Section | None:
    """Show the path between the models, and what the chosen one answers."""
    load, chosen = tables_in(work.root), found.selection.chosen.name
    tables = {name: load(cell) for name, cell in found.measured(chosen).items()}
    seen = [cell for report in found.sweep for cell in report.measured if cell.candidate == chosen]
    validation = {cell.evaluation: load(cell) for cell in seen}
    figures = [*_path_figures(found, work, folder), *answer_figures(folder, tables)]
    return sections.diagnosis_section(
        figures, answer_tables(tables, validation, found.recipe.evaluations, found.recipe.seed)
    )


def _path_figures(found: Evidence, work: Workspace, folder: Path) -> list[Figure]:
    members = found.candidates.members
    alphas = [member.alpha for member in members if member.alpha is not None]
    if len(members) < 2 or len(alphas) < len(members):
        return []
    losses: dict[str, list[float]] = {}
    of_scores = False
    for name in found.recipe.evaluations:
        cells = {cell.candidate: cell for r in found.sweep for cell in r.measured if cell.evaluation == name}
        tables = [tables_in(work.root)(cells[member.name]) for member in members]
        of_scores = of_scores or isinstance(tables[0], ScoreOutcomes)
        losses[name] = [float(table.nll.sum() / table.targets.sum()) for table in tables]
    chosen = found.selection.chosen
    alpha = chosen.alpha or 0.5
    from ftlib.training.layer_distances import layer_distances

    layers = layer_distances(chosen.start.path / "model", chosen.end.path / "model", alpha)
    moved = [diagnosis.Moved(at.layer, at.relative, at.survives if at.moved else None) for at in layers]
    return [diagnosis.loss_path(folder, alphas, losses, of_scores=of_scores), diagnosis.moved(folder, moved, alpha)]


def _alpha_figures(found: Evidence, folder: Path) -> list[Figure]:
    members = found.candidates.members
    alphas = [member.alpha for member in members if member.alpha is not None]
    if len(members) < 2 or len(alphas) < len(members):
        return []
    chosen = [member.name for member in members].index(found.selection.chosen.name)
    figures: list[Figure] = []
    for name, paths in _drawn(found.recipe).items():
        lines = [line for path in paths if (line := _line(found, path)) is not None]
        if lines:
            figures.append(alpha_curve(folder, alphas, chosen, lines, name))
    return figures


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
    there = [path for path in named if path.startswith(f"{evaluation}/")]
    elsewhere = (path.partition("/")[2] for path in named)
    metric = next((kind for kind in elsewhere if kind in kinds), kinds[0])
    return there[0] if there else f"{evaluation}/{metric}"


def _line(found: Evidence, path: str) -> Line | None:
    """Return a metric along alpha; None where it is undefined at some of them."""
    name, _, metric = path.partition("/")
    better = {kind.name: kind.higher_is_better for kind in found.recipe.evaluations[name].metrics}
    cells = {cell.candidate: cell for r in found.sweep for cell in r.measured if cell.evaluation == name}
    values = [cells[member.name].metrics[metric].numbers() for member in found.candidates.members]
    known = tuple(Point(*three) for three in values if three is not None)
    return Line(name, metric, known, better[metric]) if len(known) == len(values) else None


def _training_figures(checkpoints: Sequence[Checkpoint], folder: Path) -> list[Figure]:
    curves = [_curve(checkpoint) for checkpoint in checkpoints[1:]]
    curves = [curve for curve in curves if len(curve.loss) > 1 or len(curve.validation) > 1]
    return [training_curves(folder, curves)] if curves else []


def _curve(checkpoint: Checkpoint) -> Curve:
    records = read(checkpoint.path / FILE)

    def series(name: str) -> list[tuple[float, float]]:
        return [(record["step"], record[name]) for record in records if name in record]

    return Curve(checkpoint.phase, series("loss"), series("validation_loss"), series("learning_rate"))
