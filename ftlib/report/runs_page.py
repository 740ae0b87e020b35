"""All runs of a work place on one page that needs no other file: which of them nothing beats, and all in a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.report.content import Cell, Page, Row, Section, Table, Tile, texts
from ftlib.report.render import html
from ftlib.report.runs_plot import Axis, axes_of, front_of, pareto_figure
from ftlib.tracking.run_choice import differing
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_words import main_metrics, row_of, titles
from ftlib.wording import counted
from ftlib.workspace import write_durably

_STYLE = """main { max-width: 90rem; } section#runs td:last-child { min-width: 14rem; }
@media (scripting: enabled) { body:not(.ready) tbody tr:nth-child(n+501) { display: none; } }
"""
"""A table of many columns needs the room; and a browser would lay out thousands of rows, for half a minute, before the
script says which are shown."""
_SCRIPT = """<script>
const shown = 500;
for (const table of document.querySelectorAll("section#runs table, section#recipes table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  let rows = [...body.rows], all = rows.length <= shown, words = [];
  const texts = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
  const more = Object.assign(document.createElement("button"), {type: "button"});
  more.style.cssText = "font: inherit; padding: .4rem .8rem; margin: .8rem 0 0; cursor: pointer;" +
    "color: inherit; background: var(--wash); border: 1px solid var(--line); border-radius: 8px";
  const show = () => {
    const fits = rows.filter(row => words.every(word => texts.get(row).includes(word)));
    const visible = new Set(all ? fits : fits.slice(0, shown));
    for (const row of rows) row.hidden = !visible.has(row);
    more.textContent = "All " + fits.length.toLocaleString("en") + " rows";
    more.hidden = visible.size === fits.length;
  };
  more.onclick = () => { all = true; show(); };
  const input = Object.assign(document.createElement("input"), {type: "search"});
  input.placeholder = "Filter by words; a click on a head orders";
  input.style.cssText = "font: inherit; width: 100%; max-width: 28rem; padding: .4rem .6rem; margin: 0 0 .8rem;" +
    "color: inherit; background: var(--wash); border: 1px solid var(--line); border-radius: 8px";
  input.setAttribute("aria-label", "Filter rows");
  input.oninput = () => { words = input.value.toLowerCase().split(/\\s+/); show(); };
  table.parentNode.before(input);
  table.parentNode.append(more);
  heads.forEach((head, i) => {
    let down = false;
    const order = () => {
      down = !down;
      const cells = new Map(rows.map(row => [row, row.cells[i].textContent.trim()]));
      const numbers = new Map(rows.map(row => [row, parseFloat(cells.get(row).replace(/,/g, ""))]));
      const numeric = !/^(run|version|chosen|when|field)/.test(head.textContent)
        && rows.some(row => !isNaN(numbers.get(row)));
      const lacks = row => isNaN(numbers.get(row)), sign = down === numeric ? -1 : 1;
      const {compare} = new Intl.Collator("en", {numeric: true});
      rows.sort((a, b) => numeric
        ? lacks(a) - lacks(b) || sign * (numbers.get(a) - numbers.get(b))
        : sign * compare(cells.get(a), cells.get(b)));
      show();
      body.append(...rows);
      heads.forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
    };
    head.style.cursor = "pointer"; head.tabIndex = 0; head.onclick = order;
    head.onkeydown = event => { if (event.key === "Enter") order(); };
  });
  show();
}
document.body.classList.add("ready");
</script>
"""


def write_page(path: Path, found: Sequence[RunFacts], place: str) -> None:
    """Write the page, whole or not at all. Raises StorageError."""
    write_durably(path, page_text(found, place).encode())


def page_text(found: Sequence[RunFacts], place: str) -> str:
    """Return the page, which needs no other file."""
    with TemporaryDirectory() as folder:
        text = html(runs_page(found, place, Path(folder)))
    text = text.replace("Réglage report", "Réglage runs", 1).replace("the records of one run", "the records of runs", 1)
    return text.replace("</style>", f"{_STYLE}</style>", 1).replace("</body>", f"{_SCRIPT}</body>", 1)


def runs_page(found: Sequence[RunFacts], place: str, folder: Path) -> Page:
    """Return the page's content; the plot is drawn into the folder."""
    axes = axes_of(found)
    if axes and sum(None not in (axes[0].better(facts), axes[1].better(facts)) for facts in found) < 2:
        axes = None  # one dot says nothing
    front = front_of(found, axes) if axes else []
    sections = [_pareto(found, axes, front, folder)] if axes else []
    sections += [_table(found, front)]
    differ = _differences(found)
    published = [facts for facts in found if facts.version]
    return Page(
        title="Runs",
        subtitle=f"Of {place}",
        verdict=_verdict(found, axes, front),
        tiles=[
            Tile(str(len(found)), "runs", "in this table"),
            Tile(str(len(published)), "with a version", "published, or there already"),
            Tile(str(sum(facts.state == "failed" for facts in found)), "failed", "the table says why"),
        ],
        sections=[*sections, *differ],
    )


def _verdict(found: Sequence[RunFacts], axes: tuple[Axis, Axis] | None, front: Sequence[RunFacts]) -> str:
    if not found:
        return "There are no runs."
    if axes is None or not front:
        return "No two runs have the same two numbers, so none is set against another."
    names = ", ".join(facts.name for facts in front[:6]) + (" and others" if len(front) > 6 else "")
    return f"On {axes[0].label} and {axes[1].label} nothing beats {names} in both."


def _pareto(found: Sequence[RunFacts], axes: tuple[Axis, Axis], front: Sequence[RunFacts], folder: Path) -> Section:
    return Section(
        "front",
        "The front",
        "A run is on the front if none is at least as good in both numbers and better in one.",
        figures=[pareto_figure(folder, found, axes, front)],
    )


def _table(found: Sequence[RunFacts], front: Sequence[RunFacts]) -> Section:
    metrics = main_metrics(found)
    names = {facts.name for facts in front}
    rows = [
        Row(
            [*texts(*row_of(facts, metrics)), Cell(facts.reason)],
            mark="chosen" if facts.name in names else "worst" if facts.state == "failed" else "",
        )
        for facts in found
    ]
    heads = [*titles(metrics), "reason"]
    lead = counted(len(found), "run") + ("; those on the front are marked." if front else ".")
    return Section("runs", "All runs", lead, tables=[Table(heads, rows)] if rows else [])


def _differences(found: Sequence[RunFacts]) -> list[Section]:
    """Return what each recipe has that most do not; nothing where all are the same."""
    rows = [
        Row([Cell(facts.name), Cell(path, code=True), Cell(value, code=True)])
        for facts, fields in zip(found, differing(found), strict=True)
        for path, value in fields.items()
    ]
    if not rows:
        return []
    lead = "What a recipe says that most of these do not."
    return [Section("recipes", "Where recipes differ", lead, tables=[Table(["run", "field", "value"], rows)])]
