"""The page from real records: its numbers are the records' numbers, it loads nothing, nothing escapes into markup."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.figure
import pytest
import scipy.stats
from huggingface_hub import ModelCard

from flows.run.candidate_jobs import diverge_job
from ftlib.config import Split
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset
from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.data.supervision import FINDINGS, Audit
from ftlib.errors import StorageError
from ftlib.evaluation.bootstrap import Resampling, difference
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.evaluation.metrics import Accuracy
from ftlib.evaluation.results import differences, interval_text, number, results, retained_reference, text_table
from ftlib.evaluation.significance import holm
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import FoundModel
from ftlib.published.card import model_card
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.report.content import signed
from ftlib.report.figures import CHOSEN, running_mean
from ftlib.report.report import Report
from ftlib.report.whole_page import _drawn
from ftlib.stages.diverge import diverge
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.interpolate import InterpolateJob, interpolate
from ftlib.stages.publication import refusals
from ftlib.stages.report import ReportJob, report
from ftlib.stages.select import SelectJob, select
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows, tiny_tokenizer
from ftlib.workspace import Workspace

DIAGNOSIS = ("loss_path", "layers_moved", "calibration", "confusion")
HOSTILE = "<script>alert(1)</script>|*x*"
AUDIT = Audit(rows=30, tokens=400, supervised=100, findings={"cut": 3, "header_learnt": 30})
"""As of a language model's rows: the page asks nothing else of what rows are."""


def recipe(**update: object) -> Recipe:
    source = {"kind": "files", "path": "rows.jsonl"}
    dataset = {"source": source, "format": {"kind": "labeled_text", "text": "text", "label": "label"}}
    metrics = [{"kind": "accuracy"}, {"kind": "macro_f1"}, {"kind": "log_loss"}]
    phase = {"dataset": "rows", "objective": {"kind": "classification"}}
    return Recipe.model_validate(
        {
            "name": "tickets",
            "model": {"path": "tiny"},
            "datasets": {"rows": dataset, "elsewhere": dataset},
            "phases": [
                {"name": "probe", **phase, "tuning": {"kind": "linear_probe"}},
                {"name": "tune", **phase, "tuning": {"kind": "full"}},
            ],
            "evaluations": {
                "target": {"dataset": "rows", "metrics": metrics, "resamples": 100},
                "shifted": {"dataset": "elsewhere", "role": "shifted", "metrics": metrics, "resamples": 100},
            },
            "interpolation": {"kind": "wise_ft", "alphas": [0.5]},
            "select": {"rule": "best", "by": "shifted/accuracy"},
            "publish": {"name": "tickets"},
            **update,
        }
    )


def records(folder: Path, work: Workspace, of: Recipe, *, tested: Sequence[str] = LABELS) -> ReportJob:
    """Run everything after training on tiny random models; test rows have the labels `tested` only."""
    base = tiny_checkpoint(folder / "base").model_copy(update={"fresh_head": True, "weights": "b" * 64})
    probe = tiny_checkpoint(folder / "probe", phase="probe", seed=3)
    tune = tiny_checkpoint(folder / "tune", phase="tune", start=probe, seed=1)
    lines = [{"step": i, "epoch": i / 9, "loss": 2.0 / i, "learning_rate": 1e-4 / i} for i in range(1, 10)]
    lines += [{"step": 9, "epoch": 1, "validation_loss": 0.4}]
    (tune.path / "curves.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepared = {
        name: tiny_prepared(
            folder / name,
            {
                "validation": tiny_rows(30, seed=seed),
                "test": [row for row in tiny_rows(45, seed=seed + 1) if row["label"] in tested],
            },
        ).model_copy(update={"ledger": Ledger(rows_in=80, kept=75, dropped={HOSTILE: 5}), "audit": AUDIT})
        for seed, name in enumerate(of.datasets)
    }
    raw = {
        name: RawDataset(
            content=name * 8, columns=("text",), files=(), ledger=Ledger(rows_in=83, kept=80, dropped={"not JSON": 3})
        )
        for name in prepared
    }
    candidates = interpolate(InterpolateJob(start=probe, end=tune, interpolation=of.interpolation), work)
    sweep = tuple(measured(of, prepared, candidates.members, "validation", work))
    moved = diverge(diverge_job(of, candidates, sweep, prepared), work) if of.select.divergence else None
    selection = select(
        SelectJob(candidates=candidates, reports=sweep, evaluations=of.evaluations, select=of.select, kl=moved), work
    )
    finalists = (*map(Candidate.of, (base, probe, tune)), selection.chosen)
    found = Evidence(
        recipe=of,
        model=FoundModel(name="tiny", uri="", weights="w" * 64, tokenizer="tiny"),
        raw=raw,
        prepared=prepared,
        checkpoints=(base, probe, tune),
        candidates=candidates,
        sweep=sweep,
        selection=selection,
        final=tuple(measured(of, prepared, finalists, "test", work)),
    )
    return ReportJob(evidence=found)


def measured(
    of: Recipe, prepared: Mapping[str, PreparedDataset], members: Sequence[Candidate], split: Split, work: Workspace
) -> Iterator[EvalReport]:
    for name, evaluation in of.evaluations.items():
        yield evaluate(
            EvaluateJob(
                name=name,
                evaluation=evaluation,
                candidates=tuple(members),
                data=prepared[evaluation.dataset],
                split=split,
                seed=of.seed,
                compute=of.compute.model_copy(update={"threads": 1}),
            ),
            work,
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportJob, Workspace, Report]:
    folder = tmp_path_factory.mktemp("report")
    work = Workspace(folder / "work")
    job = records(folder, work, recipe())
    return job, work, report(job, work)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty plots, for tests of what the page says: drawing takes most of its time."""

    def blank(_: object, target: Path | StringIO, **options: object) -> None:
        if isinstance(target, Path):
            target.write_bytes(b"")
        else:
            target.write("<svg></svg>")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", blank)


class Tags(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.slow
def test_two_runs_of_one_recipe_give_the_same_bytes_however_fast_they_were(
    made: tuple[ReportJob, Workspace, Report], tmp_path: Path
) -> None:
    """Time, memory, and whether one was killed: all that differs between two runs that make the same weights."""
    job, work, _ = made
    pages: list[dict[str, bytes]] = []
    for i in range(2):
        facts: dict[str, float | int | str] = {
            "steps": 9,
            "final_loss": 0.25,
            "samples_per_second": 100.0 + i,
            "seconds": 3.0 + i,
            "worker_seconds": 4.0 + i,
            "peak_memory_bytes": 10**9 + i,
            **({"resumed_from_step": 5} if i else {}),
        }
        again = [c.model_copy(update={"facts": facts, "seconds": 7.0 + i}) for c in job.evidence.checkpoints]
        evidence = job.evidence.model_copy(update={"checkpoints": tuple(again)})
        at = Workspace(tmp_path / str(i))
        shutil.copytree(work.root / "outcomes", at.root / "outcomes")
        page = report(ReportJob(evidence=evidence), at)
        pages.append({file.name: file.read_bytes() for file in page.path.iterdir() if file.name != "artifact.json"})
    assert pages[0] == pages[1]
    assert b"0.25" in pages[0]["report.html"]


def test_the_page_loads_nothing_and_runs_nothing(made: tuple[ReportJob, Workspace, Report]) -> None:
    html = (made[2].path / "report.html").read_text()
    page = Tags(html)
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)|@import", html)
    assert page.tags.count("svg") > 2
    assert not re.search(CHOSEN, html[html.index("<body>") :])  # plots take the accent of light or dark
    assert HOSTILE in " ".join(page.words)  # shown, as text


def test_every_estimate_of_the_records_is_on_both_pages(made: tuple[ReportJob, Workspace, Report]) -> None:
    job, _, page = made
    html = " ".join(Tags((page.path / "report.html").read_text()).words)
    markdown = (page.path / "report.md").read_text()
    for cell in (cell for reports in (job.evidence.sweep, job.evidence.final) for r in reports for cell in r.measured):
        for estimate in cell.metrics.values():
            words = f"{number(estimate.low)} to {number(estimate.high)}"
            assert number(estimate.value) in html
            assert words in html
            assert f"({words})" in markdown


def test_both_pages_say_what_rows_that_train_teach(made: tuple[ReportJob, Workspace, Report]) -> None:
    html, markdown = ((made[2].path / name).read_text() for name in ("report.html", "report.md"))
    for words in (
        "Rows: 100 of 400 tokens are learnt (25%).",
        "Rows: 3 of 30 training rows were too long and lost tokens or turns (cut).",
        f"Rows: 30 of 30 training rows {FINDINGS['header_learnt']} (header_learnt).",
    ):
        assert words in " ".join(Tags(html).words)
        assert words in markdown.replace("\\", "")
    assert "Elsewhere: 100 of 400" not in html  # no phase trains on it


@pytest.mark.usefixtures("blank_figures")
def test_what_the_test_rows_do_not_define_is_undefined_on_every_page(tmp_path: Path) -> None:
    """All test rows have one label: scikit-learn gives nan and a warning for what is undefined here."""
    metrics = [{"kind": "auroc"}, {"kind": "mcc"}, {"kind": "f1", "label": LABELS[1]}, {"kind": "accuracy"}]
    evaluations = {"target": {"dataset": "rows", "metrics": metrics, "resamples": 100}}
    gates = [{"metric": "target/auroc", "at_least": 0.1}]
    dataset = recipe().model_dump(mode="json")["datasets"]["rows"]
    of = recipe(
        datasets={"rows": dataset},
        evaluations=evaluations,
        select={"rule": "best", "by": "target/auroc", "gates": gates},
    )
    work = Workspace(tmp_path / "work")
    job = records(tmp_path, work, of, tested=LABELS[:1])
    assert job.evidence.sweep[0].measured[0].metrics["auroc"].numbers()[0] >= 0.0  # on the validation rows it is known
    chosen = job.evidence.measured(job.evidence.selection.chosen.name)["target"].metrics
    undefined = ("auroc", "mcc", f"f1:{LABELS[1]}")
    assert [chosen[name].model_dump(exclude={"undefined"}) for name in undefined] == [
        {"value": None, "low": None, "high": None}
    ] * 3
    assert chosen["accuracy"].numbers() is not None
    page = report(job, work)
    html, markdown = ((page.path / name).read_text() for name in ("report.html", "report.md"))
    (line,) = [line for line in markdown.splitlines() if "chosen (" in line and "undefined" in line]
    assert line.count("undefined") == 3
    assert html.count("undefined") > 3
    card = model_card(job.evidence)
    assert re.search(r"chosen \(.*\) \| \d+ \| undefined \| undefined \| undefined \| [01]\.\d+ \\\[", card)
    assert [result.metric_type for result in ModelCard(card).data.eval_results] == ["accuracy"]
    compared = differences("probe", "tune", job.evidence.final, of.evaluations, tables_in(work), 0)
    assert {d.metric: (d.verdict == "undefined", d.p is None) for d in compared} == {
        **dict.fromkeys(undefined, (True, True)), "accuracy": (False, False)
    }  # fmt: skip
    chosen_cells = job.evidence.measured(job.evidence.selection.chosen.name)
    (refused,) = refusals(job.evidence.recipe, chosen_cells)
    assert refused.startswith(
        "target/auroc is undefined on the test split: there is no label that some rows have and others have not; "
        "at least 0.1 is required"
    )


def test_markdown_tables_are_whole_whatever_a_reason_holds(made: tuple[ReportJob, Workspace, Report]) -> None:
    markdown = (made[2].path / "report.md").read_text()
    assert "<script>" not in markdown
    width = 0
    for line in markdown.splitlines():
        columns = len(re.findall(r"(?<!\\)\|", line))
        assert not columns or not width or columns == width, line
        width = columns
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", markdown)
    assert images == [f"{name}.png" for name in ("alpha_curve", *DIAGNOSIS, "training_curves")]
    assert set(images) < set(made[2].plots)


def evaluations(**roles: str) -> dict[str, object]:
    metrics = [{"kind": "accuracy"}, {"kind": "log_loss"}]
    return {name: {"dataset": "elsewhere", "role": role, "metrics": metrics} for name, role in roles.items()}


ONE, TWO, ALL = (
    {"home": "target"},
    {"fit": "target", "home": "target", "old": "retained"},
    {
        "home": "target",
        "away": "shifted",
        "old": "retained",
    },
)


@pytest.mark.parametrize(
    ("roles", "select", "drawn"),
    [
        (ONE, {"by": "home/log_loss"}, {"alpha_curve": ["home/log_loss"]}),
        # Not the first evaluation, but the one that decided; the other metric as named, not the same one.
        (
            TWO,
            {"rule": "constrained", "by": "home/accuracy", "subject_to": "old/log_loss"},
            {"alpha_curve": ["home/accuracy", "old/log_loss"]},
        ),
        (TWO, {"by": "home/log_loss"}, {"alpha_curve": ["home/log_loss", "old/log_loss"]}),
        (
            TWO,
            {"by": "fit/accuracy", "plus": {"home/log_loss": 0.5}},
            {"alpha_curve": ["fit/accuracy", "home/log_loss"], "retained_curve": ["fit/accuracy", "old/accuracy"]},
        ),
        # The target lies on the x axis, whichever decides.
        (
            ALL,
            {"by": "away/accuracy"},
            {"alpha_curve": ["home/accuracy", "away/accuracy"], "retained_curve": ["away/accuracy", "old/accuracy"]},
        ),
        (
            ALL,
            {"rule": "knee", "by": "old/accuracy", "subject_to": "home/log_loss", "plus": {"home/accuracy": 1.0}},
            {
                "alpha_curve": ["home/log_loss", "old/accuracy", "home/accuracy"],
                "shifted_curve": ["away/accuracy", "old/accuracy"],
            },
        ),
    ],
)
def test_the_plots_draw_what_the_rule_looks_at(
    roles: dict[str, str], select: dict[str, object], drawn: dict[str, list[str]]
) -> None:
    assert _drawn(recipe(evaluations=evaluations(**roles), select=select)) == drawn


def test_the_curve_has_the_metrics_of_the_rule(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    select = {"rule": "constrained", "by": "target/macro_f1", "subject_to": "shifted/log_loss", "max_drop": 9}
    page = report(records(tmp_path, work, recipe(select=select)), work)
    words = "".join(ElementTree.fromstring((page.path / "alpha_curve.svg").read_text()).itertext())
    assert "target macro f1" in words
    assert "shifted log loss (lower is better)" in words
    assert "accuracy" not in words


def test_plots_are_whole_files_and_take_the_page_s_colour(made: tuple[ReportJob, Workspace, Report]) -> None:
    page = made[2]
    names = sorted(["alpha_curve", "training_curves", *DIAGNOSIS])
    assert page.plots == tuple(f"{name}.{kind}" for name in names for kind in ("png", "svg"))
    for name in page.plots:
        data = (page.path / name).read_bytes()
        if name.endswith(".png"):
            assert data.startswith(b"\x89PNG")
            assert data.endswith(b"IEND\xaeB`\x82")
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")
            assert b"currentColor" in data


def test_the_same_records_give_the_same_bytes(made: tuple[ReportJob, Workspace, Report], tmp_path: Path) -> None:
    job, work, page = made
    assert report(job, work) == page
    (tmp_path / "outcomes").symlink_to(work.root / "outcomes")
    again = report(job, Workspace(tmp_path))
    for name in ("report.html", "report.md", *page.plots):
        assert (again.path / name).read_bytes() == (page.path / name).read_bytes(), name


def test_differences_are_those_of_the_tables(made: tuple[ReportJob, Workspace, Report]) -> None:
    job, work, page = made
    chosen = job.evidence.selection.chosen.name
    ours, theirs = (
        read_outcomes(work.root / job.evidence.final[1].of(name, "shifted", "test").outcomes)
        for name in (chosen, "tune")
    )
    expected = difference(Accuracy(), ours, theirs, Resampling(100, 0.95, 0))
    markdown = (page.path / "report.md").read_text()
    start = markdown.index(f"{chosen} minus tune")
    row = next(line for line in markdown[start:].splitlines() if line.startswith("| shifted | accuracy"))
    assert f"({signed(expected.low)} to {signed(expected.high)})" in row


@pytest.mark.usefixtures("blank_figures")
def test_a_model_is_not_compared_with_itself(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    evaluations = recipe().model_dump(mode="json")["evaluations"]
    evaluations["old"] = {**evaluations["target"], "role": "retained"}
    fixed = {"rule": "fixed", "by": "shifted/accuracy", "alpha": 0}
    job = records(tmp_path, work, recipe(select=fixed, evaluations=evaluations))
    markdown = (report(job, work).path / "report.md").read_text()
    assert "alpha=0 has the very weights of probe: there is nothing to compare" in markdown
    assert "alpha=0 minus probe" not in markdown
    part = markdown[markdown.index("**alpha=0 minus tune**") : markdown.index("## Forgetting")]
    rows = re.findall(r"^\| (\w+) \| (\w+ ?\w*) \| .* \| ([<.\d ]+) \| \w+ \|$", part, re.MULTILINE)
    of = job.evidence.recipe.evaluations
    found = list(differences("alpha=0", "tune", job.evidence.final, of, tables_in(work), 0))
    assert len(found) == 9
    assert rows == [
        (d.evaluation, d.metric.replace("_", " "), "< 0.001" if p < 0.001 else f"{p:.3f}")
        for d, p in zip(found, holm([d.p for d in found]), strict=True)
    ]
    assert (
        "the very weights of probe, since the base model's own head is random: nothing is forgotten"
        in markdown[markdown.index("## Forgetting") :]
    )


def test_a_table_that_is_gone_is_one_clear_line(made: tuple[ReportJob, Workspace, Report], tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is not a table of outcomes"):
        report(made[0], Workspace(tmp_path))
    assert not list((tmp_path / "stages" / "report").glob("*/artifact.json"))


def test_results_are_the_rows_of_the_terminal(made: tuple[ReportJob, Workspace, Report]) -> None:
    job = made[0]
    rows = results(job.evidence.final, job.evidence.selection, job.evidence.recipe.evaluations)
    chosen = f"chosen ({job.evidence.selection.chosen.name})"
    assert [row.model for row in rows] == ["base", "probe", "tune", chosen] * 2
    assert [row.chosen for row in rows] == [False, False, False, True] * 2
    table = text_table(rows)
    assert table[0] == ["evaluation", "model", "rows", "accuracy", "macro_f1", "log_loss"]
    assert table[1][3] == interval_text(job.evidence.final[0].of("base", "target", "test").metrics["accuracy"])


@pytest.mark.usefixtures("blank_figures")
def test_forgetting_names_what_it_is_measured_against(tmp_path: Path) -> None:
    evaluations = recipe().model_dump(mode="json")["evaluations"]
    evaluations["old"] = {**evaluations["target"], "role": "retained"}
    middle = {"rule": "fixed", "by": "shifted/accuracy", "alpha": 0.5}
    job = records(tmp_path, Workspace(tmp_path / "work"), recipe(evaluations=evaluations, select=middle))
    page = report(job, Workspace(tmp_path / "work"))
    markdown = (page.path / "report.md").read_text()
    part = markdown[markdown.index("## Forgetting") :]
    assert "against probe, since the base model's own head is random" in part
    part = part[: part.index("## Behind the numbers")]
    assert "](retained_curve.png)" in markdown[: markdown.index("## Results")]
    assert len(re.findall(r"^\| old \| (?:accuracy|macro f1|log loss)", part, re.MULTILINE)) == 3
    ours, theirs = (
        read_outcomes(tmp_path / "work" / job.evidence.measured(name)["old"].outcomes)
        for name in (job.evidence.selection.chosen.name, "probe")
    )
    expected = float(scipy.stats.entropy(theirs.probabilities, ours.probabilities, axis=1).mean())
    assert f"| old | {number(expected)} (" in part[part.index("mean KL(probe") :]


@pytest.mark.usefixtures("blank_figures")
def test_without_old_skills_it_is_said_how_far_answers_moved_on_shifted_rows(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    middle = {"rule": "fixed", "by": "shifted/accuracy", "alpha": 0.5}
    job = records(tmp_path, work, recipe(select=middle))
    markdown = (report(job, work).path / "report.md").read_text()
    part = markdown[markdown.index("## Forgetting") : markdown.index("## Behind the numbers")]
    assert "No evaluation has role: retained, so what was lost of other skills is not measured." in part
    assert "How far answers moved on shifted is, from those of probe" in part
    ours, theirs = (
        read_outcomes(work.root / job.evidence.measured(name)["shifted"].outcomes)
        for name in (job.evidence.selection.chosen.name, "probe")
    )
    expected = float(scipy.stats.entropy(theirs.probabilities, ours.probabilities, axis=1).mean())
    assert f"| shifted | {number(expected)} (" in part
    assert "| target |" not in part


@pytest.mark.usefixtures("blank_figures")
def test_without_interpolation_there_is_no_curve_and_the_end_is_listed_once(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    job = records(tmp_path, work, recipe(interpolation={"kind": "off"}))
    page = report(job, work)
    plain = ("calibration", "confusion", "training_curves")  # there is no path
    assert page.plots == tuple(f"{name}.{kind}" for name in plain for kind in ("png", "svg"))
    models = [row.model for row in results(job.evidence.final, job.evidence.selection, job.evidence.recipe.evaluations)]
    assert models == ["base", "probe", "chosen (tune)"] * 2


@pytest.mark.usefixtures("blank_figures")
def test_slices_come_worst_first(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    job = records(tmp_path, work, recipe(interpolation={"kind": "off"}))
    tokenizer, folder = tiny_tokenizer(), tmp_path / "sliced"
    folder.mkdir()
    rows = [
        PreparedRow(
            f"r{i}", {"input_ids": tokenizer(str(row["text"]))["input_ids"]}, str(row["label"]), (str(row["label"]),)
        )
        for i, row in enumerate(tiny_rows(45))
    ]
    write_split(split_file(folder, "test"), "labeled", rows, ["kind"])
    sliced = job.evidence.prepared["rows"].model_copy(update={"uri": str(folder), "content": "sliced"})
    final = measured(
        job.evidence.recipe, {**job.evidence.prepared, "rows": sliced}, (job.evidence.selection.chosen,), "test", work
    )
    page = report(ReportJob(evidence=job.evidence.model_copy(update={"final": tuple(final)})), work)
    markdown = (page.path / "report.md").read_text()
    part = markdown[markdown.index("## Slices") : markdown.index("## Training")]
    values = [float(value) for value in re.findall(r"kind=\w+\** \| \**15\** \| \**([\d.]+)", part)]
    assert len(values) == 3
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_what_forgetting_is_measured_against(made: tuple[ReportJob, Workspace, Report]) -> None:
    base, probe, tune = made[0].evidence.checkpoints
    able = base.model_copy(update={"fresh_head": False})
    assert retained_reference((base, probe, tune)) == probe
    assert retained_reference((able, tune)) == able
    assert retained_reference((base, tune)) is None


def test_arunning_mean_of_a_constant_is_the_constant_from_the_first_step() -> None:
    assert running_mean([2.0] * 50) == pytest.approx([2.0] * 50)
    assert running_mean([0.0] * 100 + [1.0] * 100)[-1] > 0.99


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "+0.123"), (-0.1234, "−0.123"), (0.0, "0.000"), (-0.0001, "0.000"), (1234.5, "+1,234")]
)
def test_a_difference_is_written_with_its_sign(value: float, text: str) -> None:
    assert signed(value) == text
