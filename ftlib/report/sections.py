"""The report's sections, each a function of just the records it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal, get_args

from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.row_reasons import PassReason
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Estimate, EvalReport, Measured, SliceFacts
from ftlib.evaluation.results import UNDEFINED, Difference, Result, number
from ftlib.evaluation.selection import Selection
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidates
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.report.content import (
    Cell,
    Figure,
    Row,
    Section,
    Table,
    Tile,
    Tone,
    estimates_on_one_scale,
    signed,
    texts,
)
from ftlib.storage.files import in_bytes
from ftlib.training.objectives.policy import MEASURED
from ftlib.wording import counted

_SCALES = (
    "The dashed line is zero. Bars of one metric share a scale; where it runs beyond ±1, as perplexities do, "
    "every row has its own."
)
_SPACED = str.maketrans("/_", "  ")
"""Makes words of evaluation/metric."""
_TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "undecided": "muted", UNDEFINED: "muted"}


def tiles(recipe: Recipe, rows: Sequence[Result], gains: Sequence[Difference]) -> list[Tile]:
    """Return the chosen model's first metric on every evaluation, and what it gained over the fine-tuned one."""
    shown: list[Tile] = []
    for row in rows:
        if not row.chosen:
            continue
        selected = recipe.select.by.partition("/")[2]
        metric = selected if selected in row.metrics else next(iter(row.metrics))
        estimate = row.metrics[metric]
        gain = next((g for g in gains if (g.evaluation, g.metric) == (row.evaluation, metric)), None)
        label = f"{row.evaluation} {metric}".replace("_", " ")
        if (three := estimate.numbers()) is None:
            shown.append(Tile(UNDEFINED, label, estimate.undefined))
            continue
        note = f"{number(three[0])} to {number(three[2])}"
        if gain is not None and gain.estimate.value:
            note += f" · {signed(gain.estimate.value)} against {gain.theirs}"
        shown.append(
            Tile(
                number(three[1]),
                label,
                note,
                _TONES[gain.verdict] if gain and gain.verdict in ("better", "worse") else "",
            )
        )
    return shown


def results_section(rows: Sequence[Result], confidence: float) -> Section:
    """Return every model on every evaluation's report split."""
    tables: list[Table] = []
    for name in dict.fromkeys(row.evaluation for row in rows):
        mine = [row for row in rows if row.evaluation == name]
        metrics = list(mine[0].metrics)
        columns = [estimates_on_one_scale([row.metrics[metric] for row in mine]) for metric in metrics]
        tables.append(
            Table(
                columns=["model", *(metric.replace("_", " ") for metric in metrics)],
                rows=[
                    Row([Cell(row.model), *(column[i] for column in columns)], "chosen" if row.chosen else "")
                    for i, row in enumerate(mine)
                ],
                caption=" · ".join(
                    dict.fromkeys(
                        [name, mine[0].role, f"{mine[0].rows:,} test rows"]
                        + [f"{metric}: {signature}" for metric, signature in mine[0].signatures.items()]
                    )
                ),
            )
        )
    lead = f"On the test rows, which nothing was chosen by. Intervals hold the truth in {confidence:.0%} of samples."
    return Section("results", "Results", lead, tables=tables)


def differences_section(compared: Sequence[Difference], chosen: str, same: Sequence[str]) -> Section:
    """Return paired comparisons of the chosen model with what it was made from, but for those that are the `same`."""
    identical = f"{chosen} has the very weights of {' and '.join(same)}: there is nothing to compare. " if same else ""
    if not compared:
        return Section("differences", "Is the difference real?", identical.strip())
    tables: list[Table] = []
    for theirs in dict.fromkeys(d.theirs for d in compared):
        mine = [d for d in compared if d.theirs == theirs]
        tables.append(difference_table(mine, f"{mine[0].ours} minus {theirs}"))
    lead = identical + (
        "Both models on the same rows, resampled together: a difference can be real where the two intervals above "
        "overlap. p is McNemar's exact test for accuracy and the paired bootstrap for the rest, after Holm's "
        f"adjustment over all {len(compared)} comparisons, so that looking at many does not make one stand out by "
        "luck. "
        f"{_SCALES}"
    )
    return Section("differences", "Is the difference real?", lead, tables=tables)


def forgetting_section(
    compared: Sequence[Difference],
    divergences: Mapping[str, Estimate],
    reference: Checkpoint | None,
    watched: Sequence[str],
    *,
    named: bool,
    per: Literal["row", "token"],
    same: bool = False,
) -> Section:
    """Return what the chosen model lost of what the base model could do; says why where that cannot be said.

    `watched` are the evaluations of old skills if the recipe has `named` any; else those whose answers are compared.
    Divergences are means `per` row or, of language models, token. `same` says that the chosen model has the reference's
    very weights.
    """
    missing = "" if named else "No evaluation has role: retained, so what was lost of other skills is not measured. "
    if reference is None:
        lead = f"{missing}The base model and theta0 both have random heads, so there is nothing to compare with."
        return Section("forgetting", "Forgetting", lead)
    why = "" if reference.phase in ("base", "onto") else ", since the base model's own head is random"
    if same:
        lead = f"{missing}The chosen model has the very weights of {reference.phase}{why}: nothing is forgotten."
        return Section("forgetting", "Forgetting", lead)
    lead = f"Retained skills, against {reference.phase}{why}. "
    if not named:
        lead = f"{missing}How far answers moved on {', '.join(watched)} is, from those of {reference.phase}{why}. "
    tables = [difference_table(compared, "")] if compared else []
    if compared:
        lead += f"A loss is forgetting. {_SCALES} "
    if divergences:
        lead += f"The divergence is how far the answers moved, right or wrong: 0 is nothing. It is per {per}."
        cells = estimates_on_one_scale(list(divergences.values()))
        rows = [Row([Cell(name), cell]) for name, cell in zip(divergences, cells, strict=True)]
        tables.append(Table(["evaluation", f"mean KL({reference.phase} || chosen), nats"], rows))
    elif not compared:
        lead = f"{missing}How far its answers moved is known of answers with one label per row and of language models."
    return Section("forgetting", "Forgetting", lead.strip(), tables=tables)


def diagnosis_section(figures: Sequence[Figure], tables: Sequence[Table]) -> Section | None:
    """Return what explains the numbers; None where there is nothing."""
    return Section("diagnosis", "Behind the numbers", figures=figures, tables=tables) if figures or tables else None


def difference_table(compared: Sequence[Difference], caption: str) -> Table:
    """Return a row for every comparison, with its interval as a bar, its p and its verdict."""
    cells: dict[int, Cell] = {}
    for group in _of_one_scale(compared):
        cells |= zip(group, estimates_on_one_scale([compared[i].estimate for i in group], zero=True), strict=True)
    return Table(
        columns=["evaluation", "metric", "difference", "p", "verdict"],
        rows=[
            Row(
                [
                    Cell(d.evaluation),
                    Cell(d.metric.replace("_", " ")),
                    cells[i],
                    Cell(d.p_text()),
                    Cell(d.verdict, tone=_TONES[d.verdict]),
                ]
            )
            for i, d in enumerate(compared)
        ],
        caption=caption,
    )


def _of_one_scale(compared: Sequence[Difference]) -> list[list[int]]:
    """Return which rows' bars are drawn on one scale; see `_SCALES`."""
    groups: list[list[int]] = []
    for metric in dict.fromkeys(d.metric for d in compared):
        of_metric = [i for i, d in enumerate(compared) if d.metric == metric]
        # Perplexities of two corpora differ by orders of magnitude: the smaller would be a dot on zero.
        ends = [three for i in of_metric if (three := compared[i].estimate.numbers()) is not None]
        wide = any(max(abs(low), abs(high)) > 1.0 for low, _, high in ends)
        groups += [[i] for i in of_metric] if wide else [of_metric]
    return groups


def selection_section(
    recipe: Recipe,
    selection: Selection,
    candidates: Candidates,
    sweep: Sequence[EvalReport],
    figures: Sequence[Figure],
    remarks: Sequence[str] = (),
) -> Section:
    """Return the rule, what it chose and why, what is remarked of the candidates, and everything it looked at."""
    cells = {(cell.candidate, cell.evaluation): cell for report in sweep for cell in report.measured}
    paths = list(dict.fromkeys((e, metric) for (_, e), cell in cells.items() for metric in cell.metrics))
    names = [member.name for member in candidates.members]
    columns = [
        estimates_on_one_scale([_metric(cells.get((name, evaluation)), metric) for name in names])
        for evaluation, metric in paths
    ]
    heads = [f"{evaluation} {metric}".replace("_", " ") for evaluation, metric in paths]
    if selection.expected:
        heads.insert(0, f"expected {recipe.select.by}{' + …' if recipe.select.plus else ''}".translate(_SPACED))
        columns.insert(0, estimates_on_one_scale(selection.expected))
    if selection.kl:
        heads.append(f"{selection.kl.evaluation} KL to start, nats")
        columns.append(estimates_on_one_scale([moved.kl for moved in selection.kl.moved]))
    table = Table(
        columns=["candidate", *heads],
        rows=[
            Row([Cell(name), *(column[i] for column in columns)], "chosen" if name == selection.chosen.name else "")
            for i, name in enumerate(names)
        ],
        caption="validation rows",
    )
    said = [f"{words[0].upper()}{words[1:]}." for words in (*candidates.remarks, *remarks)]
    lead = " ".join([f"Rule: {selection.rule}. {selection.why}", *said])
    return Section("selection", "How the model was chosen", lead, figures, [table])


def _metric(cell: Measured | None, metric: str) -> Estimate | None:
    return cell.metrics.get(metric) if cell else None


def slices_section(
    final: Sequence[EvalReport], selection: Selection, evaluations: Mapping[str, Evaluation]
) -> Section | None:
    """Return the chosen model on every slice, the worst first; None where no format names slices."""
    tables: list[Table] = []
    for cell in (cell for report in final for cell in report.measured if cell.candidate == selection.chosen.name):
        if not cell.slices or any(table.caption.startswith(f"{cell.evaluation} ·") for table in tables):
            continue
        tables.append(_slice_table(cell, higher_is_better=evaluations[cell.evaluation].metrics[0].higher_is_better))
    if not tables:
        return None
    lead = "The chosen model by slice, the worst by the first metric on top. Small slices have wide intervals."
    return Section("slices", "Slices", lead, tables=tables)


def _slice_table(cell: Measured, *, higher_is_better: bool) -> Table:
    """Return a row for every slice, the worst by the first metric on top; undefined ones last."""
    metrics = list(cell.metrics)

    def merit(item: tuple[str, SliceFacts]) -> float:
        value = item[1].metrics[metrics[0]].value
        if value is None:
            return inf  # nobody can say how bad it is: below those that can be compared
        return value if higher_is_better else -value

    worst_first = sorted(cell.slices.items(), key=merit)
    worst = 0 if any(facts.metrics[metrics[0]].value is not None for facts in cell.slices.values()) else None
    columns = [estimates_on_one_scale([facts.metrics[metric] for _, facts in worst_first]) for metric in metrics]
    return Table(
        columns=["slice", "rows", *(metric.replace("_", " ") for metric in metrics)],
        rows=[
            Row([Cell(name), *texts(facts.rows), *(column[i] for column in columns)], "worst" if i == worst else "")
            for i, (name, facts) in enumerate(worst_first)
        ],
        caption=f"{cell.evaluation} · {counted(cell.rows, 'row')}",
        numeric=frozenset({1}),
    )


_OF_ONE_RUN = frozenset(
    {
        *("samples_per_second", "seconds", "worker_seconds", "peak_memory_bytes", "resumed_from_step"),
        *("rows_per_second_before", "rows_per_second_after"),
    }
)
_OF_ONE_MACHINE = ("predicted_", "measured_")
"""Facts that differ between two runs that make the same weights. They stay in the run's record: the page is published,
and equal content has an equal manifest."""
_OF_A_POLICY = frozenset(f"{when}_{name}" for when in ("first", "last") for name in MEASURED)
"""Facts that have a section of their own."""


def training_section(checkpoints: Sequence[Checkpoint], figures: Sequence[Figure]) -> Section:
    """Return what every phase did, as every run of it does."""
    told = (name for checkpoint in checkpoints for name in checkpoint.facts)
    facts = [
        n for n in dict.fromkeys(told) if n not in _OF_ONE_RUN | _OF_A_POLICY and not n.startswith(_OF_ONE_MACHINE)
    ]
    return Section(
        "training",
        "Training",
        figures=figures,
        tables=[
            Table(
                columns=["", *(checkpoint.phase for checkpoint in checkpoints[1:])],
                rows=[
                    Row(texts("parameters", *(c.parameters for c in checkpoints[1:]))),
                    Row(texts("trained", *(c.trained_parameters for c in checkpoints[1:]))),
                    *(Row(texts(_words(name), *(_fact(c, name) for c in checkpoints[1:]))) for name in facts),
                ],
                numeric=frozenset(range(1, len(checkpoints))),
            )
        ],
    )


_FACTS = {
    "supervised": "targets",
    "seconds": "seconds of its steps",
    "worker_seconds": "seconds of its worker",
    "world_size": "workers",
    "peak_memory_bytes": "peak memory",
}
"""What a fact of a training is called on the page, where its name alone says little."""


def _words(name: str) -> str:
    return _FACTS.get(name, name.replace("_", " "))


def _fact(checkpoint: Checkpoint, name: str) -> str | int:
    value = checkpoint.facts.get(name, "–")
    if name.endswith("_bytes") and not isinstance(value, str):
        return in_bytes(int(value))
    return f"{value:,.4g}" if isinstance(value, float) else value


def data_section(
    raw: Mapping[str, RawDataset], prepared: Mapping[str, PreparedDataset], notes: Sequence[str] = ()
) -> Section:
    """Return where every row went; `notes` are said above, each a sentence without its full stop."""
    ledger: list[Row] = []
    for name in prepared:
        ledger += _ledger(name, raw[name], prepared[name])
    units = dict.fromkeys(KINDS[data.kind].size_unit for data in prepared.values())
    return Section(
        "data",
        "Data",
        " ".join(["Rows in = rows kept + rows dropped, each with its reason.", *(f"{_capital(n)}." for n in notes)]),
        tables=[
            Table(["dataset", "", "rows"], ledger, "ledger", frozenset({2})),
            *_personal_data(raw),
            *(_splits(prepared, unit) for unit in units),
        ],
    )


def _personal_data(raw: Mapping[str, RawDataset]) -> list[Table]:
    """Return what of the rows' columns looks like personal data; no table where nothing does."""
    rows = [
        Row(texts(name, column, kind, count))
        for name, data in raw.items()
        for column, kinds in sorted((data.personal_data or {}).items())
        for kind, count in sorted(kinds.items())
    ]
    columns = ["dataset", "column", "kind", "matches"]
    return [Table(columns, rows, "personal data in the sources' rows", frozenset({3}))] if rows else []


def _splits(prepared: Mapping[str, PreparedDataset], unit: str) -> Table:
    """Return a row for every split of the datasets whose rows are counted in a unit; images are all of one size."""
    of_unit = {name: data for name, data in prepared.items() if KINDS[data.kind].size_unit == unit}
    sizes = ["longest", "truncated"] if unit == "tokens" else []
    rows = [
        Row(
            texts(
                *(name, split, facts.rows, facts.tokens, facts.supervised),
                *(getattr(facts, size) for size in sizes),
                len(facts.labels) or "–",
            )
        )
        for name, data in of_unit.items()
        for split, facts in data.splits.items()
    ]
    columns = ["dataset", "split", "rows", unit, "targets", *sizes, "labels"]
    caption = "splits" if unit == "tokens" else "splits; a patch is 16 × 16 pixels"
    return Table(columns, rows, caption, frozenset(range(2, len(columns))))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _ledger(name: str, raw: RawDataset, prepared: PreparedDataset) -> list[Row]:
    """Return one dataset's ledger; `leaked` is one of the reasons that preprocessing gives."""
    passed = get_args(PassReason)  # such rows are whole, and give nothing of what their source was asked for
    dropped = [(f"{'passed' if r in passed else 'quarantined'}: {r}", n) for r, n in raw.ledger.dropped.items()]
    dropped += [(f"dropped: {reason}", count) for reason, count in prepared.ledger.dropped.items()]
    return [
        Row(texts(name, "rows in", raw.ledger.rows_in)),
        *(Row([Cell(""), *_drop(reason, count)]) for reason, count in dropped if count),
        Row(texts("", "kept", prepared.ledger.kept)),
    ]


def _drop(reason: str, count: int) -> list[Cell]:
    return [Cell(_words(reason)), Cell(f"−{count:,}", tone="bad")]


def lineage_section(
    recipe: Recipe,
    model: FoundModel,
    raw: Mapping[str, RawDataset],
    prepared: Mapping[str, PreparedDataset],
    checkpoints: Sequence[Checkpoint],
    selection: Selection,
) -> Section:
    """Return what was made from what, by digest."""
    rows = [_line("base model", model.name, model.digest(), "")]
    rows += [_line("raw data", name, data.content, data.fingerprint) for name, data in raw.items()]
    rows += [_line("prepared data", name, data.content, data.fingerprint) for name, data in prepared.items()]
    rows += [_line("checkpoint", c.phase, c.weights, c.fingerprint) for c in checkpoints]
    rows += [_line("chosen", selection.chosen.name, selection.chosen.weights, selection.fingerprint)]
    lead = f"Recipe {recipe.name}, seed {recipe.seed}. A digest identifies bytes, a fingerprint the job that made them."
    return Section("lineage", "Lineage", lead, tables=[Table(["kind", "name", "digest", "fingerprint"], rows)])


def _line(kind: str, name: str, digest: str, fingerprint: str) -> Row:
    made_by = Cell(fingerprint, code=True) if fingerprint else Cell("–", tone="muted")
    return Row([Cell(kind), Cell(name), Cell(digest[:16], code=True), made_by])
