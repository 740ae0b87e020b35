"""What a new kind of batch, format, objective, tuning, metric, interpolation or merge method costs: files are counted.

Each is one new file and two lines in its union's `__init__`, since everyone else asks words. So outside a union's own
folder nobody may import a member, or ask whether a value is one; and outside the table nobody may name a kind.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from ftlib.config import BatchKind
from ftlib.data.formats import Format
from ftlib.data.sources import Source
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.kind import KINDS
from ftlib.kinds.table import encoders
from ftlib.merging.interpolation import Interpolation
from ftlib.merging.methods import METHODS, Merge
from ftlib.registry.places import Registry
from ftlib.training.augmentation import Augmentation
from ftlib.training.objectives import Objective
from ftlib.training.tuning import Tuning, tunings

ROOT = Path(__file__).parents[2]


def members(union: Any) -> Iterator[type[Any]]:
    for member in get_args(get_args(union)[0]):
        yield from [member] if isinstance(member, type) else members(member)


FAMILIES = {
    "format": [*members(Format)],
    "source": [*members(Source)],
    "objective": [*members(Objective)],
    "tuning": [*members(Tuning)],
    "metric": [*members(Metric)],
    "interpolation": [*members(Interpolation)],
    "merge method": [*members(Merge)],
    "registry": [*members(Registry)],
}

MAKES_MERGES = {f"ftlib/merging/{name}.py" for name in ("candidates", "candidate_weights", "layer_distances")}
"""They make a straight line or a mean, and ask nobody whether he is one."""

NAMES_KINDS = {
    "ftlib/config.py",  # the words
    *(f"ftlib/kinds/table/{name}.py" for name in ("row", "encoders", "language_models", "images")),  # the table
    "ftlib/data/prepared.py",  # the column of a kind's targets, in a match that a type checker wants whole
    "ftlib/testing/checkpoints.py",  # tiny models and rows of some of them
    "ftlib/testing/pipelines.py",
    "ftlib/testing/prepared.py",
    "ftlib/data/guess/guess.py",  # which kind a stranger's files hold
    "ftlib/data/guess/splits.py",
    "ftlib/recipe/draft.py",  # and what a first recipe for each has
}


@cache
def nodes_by_file() -> dict[str, tuple[ast.AST, ...]]:
    """Return the nodes of every file of the library; walking them all takes seconds, so it is done once."""
    files = [file for folder in ("ftlib", "flows", "tasks") for file in (ROOT / folder).rglob("*.py")]
    return {str(file.relative_to(ROOT)): tuple(ast.walk(ast.parse(file.read_text()))) for file in files}


def home(member: type[Any]) -> str:
    return str(Path(*member.__module__.split(".")).parent)


def test_what_is_scanned_is_the_library() -> None:
    assert len(nodes_by_file()) > 300
    assert {family: len(found) for family, found in FAMILIES.items() if len(found) < 2} == {}
    assert {home(member) for member in FAMILIES["tuning"]} == {"ftlib/training/tuning"}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_one_outside_a_union_s_folder_imports_its_members(family: str) -> None:
    names = {(member.__module__.rpartition(".")[0], member.__name__): home(member) for member in FAMILIES[family]}
    found = {
        (file, alias.name)
        for file, nodes in nodes_by_file().items()
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        for package in (node.module, node.module.rpartition(".")[0])
        if names.get((package, alias.name), str(Path(file).parent)) != str(Path(file).parent)
    }
    files = nodes_by_file()
    allowed = {file for file in files if file.startswith("ftlib/testing/")}  # rows and recipes for tests
    allowed |= {
        "ftlib/data/guess/guess.py",
        "ftlib/data/guess/annotated.py",
    }  # who propose what fits a stranger's files
    if family == "merge method":  # what interpolations are made of
        allowed |= {*MAKES_MERGES, *(file for file in files if file.startswith("ftlib/merging/interpolation/"))}
    assert {(file, name) for file, name in found if file not in allowed} == set()


def test_no_one_asks_whether_a_value_is_a_union_s_member() -> None:
    homes = {member.__name__: home(member) for found in FAMILIES.values() for member in found}
    asked = [
        f"{file}:{node.lineno}: {name.id}"
        for file, nodes in nodes_by_file().items()
        for node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
        for name in ast.walk(node.args[1])
        if isinstance(name, ast.Name)
        and homes.get(name.id, str(Path(file).parent)) != str(Path(file).parent)
        # the library's types of the same name
        and name.id in imported(nodes)
    ]
    assert asked == []


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Return what a module imports of ftlib, by name."""
    found = (node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "")[:5] == "ftlib")
    return {alias.asname or alias.name for node in found for alias in node.names}


def test_no_one_outside_the_table_names_a_kind() -> None:
    """But for what a part of the recipe says of itself (`yields`, `needs`, `reads`, `fits`), and a table its kind."""
    kinds, words = {*get_args(BatchKind)}, {home(member) for found in FAMILIES.values() for member in found}
    words |= {"ftlib/kinds/outcomes"}
    found = {
        f"{file}:{node.lineno}: {node.value}"
        for file, nodes in nodes_by_file().items()
        if file not in NAMES_KINDS and str(Path(file).parent) not in words
        for node in nodes
        if isinstance(node, ast.Constant) and node.value in kinds
    }
    others = {
        "tokens": (  # what they count
            "ftlib/report/sections.py:",
            "ftlib/data/inputs.py:",
            "flows/planning/trainings.py:",
            "flows/planning/askings.py:",
            "ftlib/stages/answer.py:",
            "ftlib/stages/thin.py:",
            "ftlib/published/answers.py:",
            "ftlib/published/loaded.py:",
            "ftlib/retraining/live_counts.py:",
            "ftlib/answer_log/place.py:",
        ),
        "preferences": ("ftlib/report/preferences.py:",),  # a section of the page
        "chats": (
            "ftlib/data/guess/formats.py:",
            "ftlib/data/guess/feedback.py:",
        ),  # the layout of a preference's or a thumb's texts
    }
    found -= {
        place
        for word, places in others.items()
        for place in found
        if re.match(rf"({'|'.join(places)})\d+: {word}$", place)
    }
    assert found == set()


def test_every_kind_has_a_head_a_table_and_words_of_its_own() -> None:
    """What a row names fits the stock libraries, which know these names independently of us."""
    import diffusers
    import transformers
    from peft import TaskType

    from ftlib.models.denoiser import DenoiserConfig

    for name, kind in KINDS.items():
        head = kind.head()
        assert kind.task_type is None or kind.task_type in TaskType.__members__
        assert kind.outcomes.kind == kind.taught_as
        if kind.predictor is not None and kind.predictor.draws:
            assert hasattr(diffusers, kind.auto_class)
            ours = {head.auto_class._model_mapping[DenoiserConfig].__name__}
        else:
            assert head.auto_class is getattr(transformers, kind.auto_class)
            ours = {*head.auto_class._model_mapping._model_mapping.values()}
        classes = {made for entry in ours for made in ([entry] if isinstance(entry, str) else entry)}
        assert any(made.endswith(kind.architectures) for made in classes)
        assert bool(kind.answers) == kind.labeled
        assert (kind.predictor is None or kind.predictor.writes) == kind.language
        words = {"folder": "f", "prefix": "", "separator": "\n", "most": 1, "beams": 1, "split": "", "asked": "'a'"}
        compile(kind.snippet.format(**words, background="white", graded="'a'"), name, "exec")
    assert len({type(kind.head()) for kind in KINDS.values()}) == len(KINDS) == len({*get_args(BatchKind)})


def test_every_kind_has_a_format_an_objective_and_a_metric() -> None:
    kinds = {*get_args(BatchKind)}
    assert {format.yields for format in FAMILIES["format"]} == kinds
    words = {kind.taught_as for kind in KINDS.values()}
    assert {objective.needs for objective in FAMILIES["objective"]} == words
    assert set().union(*(metric.reads for metric in FAMILIES["metric"])) == words
    assert {format.yields for format in FAMILIES["format"] if format.names_labels} == {
        name for name, kind in KINDS.items() if kind.labeled
    }


def test_a_row_that_leaves_something_out_cannot_be_made() -> None:
    row = {name: getattr(KINDS["labeled"], name) for name in type(KINDS["labeled"]).__dataclass_fields__}
    for name in row:
        with pytest.raises(TypeError, match=name):
            type(KINDS["labeled"])(**{field: value for field, value in row.items() if field != name})


def test_the_table_and_the_words_cannot_drift_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that the words name and the table does not, or the other way round, cannot be imported."""
    source = (ROOT / "ftlib/kinds/kind.py").read_text()
    others = source.replace("from ftlib.config import BatchKind", 'BatchKind = __import__("typing").Literal["pairs"]')
    assert others != source
    cannot_be_imported(others)
    changes: tuple[dict[str, Any], ...] = ({"name": "labeled"}, {"outcomes": KINDS["labeled"].outcomes})
    for differs in changes:
        rows = [replace(row, **differs) if row.name == "scored" else row for row in encoders.ROWS]
        with monkeypatch.context() as patch:
            patch.setattr(encoders, "ROWS", tuple(rows))
            cannot_be_imported(source)


def cannot_be_imported(table: str) -> None:
    with pytest.raises(TypeError, match="BatchKind names"):
        exec(compile(table, "kind.py", "exec", flags=0, dont_inherit=True), {"__name__": "ftlib.kinds.kind"})


def test_a_merge_method_states_its_paper_and_the_command_line_knows_it() -> None:
    assert {method.model_fields["kind"].default for method in FAMILIES["merge method"]} == {*METHODS}
    assert all("arXiv" in method.paper or "doi" in method.paper for method in METHODS.values())
    assert [name for name, method in METHODS.items() if method.pair] == ["lerp", "lines", "blocks", "slerp"]


def test_tunings_are_offered_by_their_words() -> None:
    assert tunings(lambda tuning: tuning.moves_head_only) == ["linear_probe", "zero_shot"]
    assert tunings(lambda tuning: tuning.makes_adapter) == ["ia3", "lora", "qlora"]
    assert tunings(lambda tuning: not tuning.takes_steps) == ["linear_probe", "zero_shot"]
    # All others end in weights that stock transformers loads.
    assert tunings(lambda tuning: not tuning.merges) == ["houlsby", "p_tuning", "prefix_tuning", "prompt_tuning"]


def test_images_cost_two_lines_a_union_and_a_row_of_the_table() -> None:
    """What classifies images lies in files of its own; elsewhere its classes are named where unions are made."""
    own = {file for file in nodes_by_file() if "image" in file and "/table/" not in file}
    row = next(kind for kind in KINDS.values() if kind.modality == "images")
    others = {one for family in FAMILIES.values() for one in family if re.search("captioned|boxed", one.__module__)}
    joined = {one for family in FAMILIES.values() for one in family if "image" in one.__module__} - others
    names = {member.__name__ for member in (*joined, type(row.head()), row.predictor, *get_augmentations()) if member}
    lines = Counter(
        file
        for file in nodes_by_file()
        if file not in own
        for line in (ROOT / file).read_text().splitlines()
        if any(re.search(rf"\b{name}\b", line) for name in names)
    )
    table = lines.pop("ftlib/kinds/table/images.py")
    lines.pop("ftlib/data/guess/guess.py")  # which guesses what files hold
    assert table == 4  # imported, and named in the row; its head is loaded by a function of three lines
    most = {"ftlib/training/augmentation/__init__.py": 1 + len(get_augmentations())}  # a line each, and the union's
    over = {file: count for file, count in lines.items() if count > most.get(file, 2)}
    assert {**over, **{file: count for file, count in lines.items() if not file.endswith("/__init__.py")}} == {}
    assert {str(Path(file).parent) for file in lines} == {home(member) for member in joined} | {
        "ftlib/kinds/predictions",
        "ftlib/training/augmentation",
    }
    assert [kind.name for kind in KINDS.values() if kind.modality == "images"] == [
        row.name,
        "captioned_images",
        "boxed_images",
    ]


def get_augmentations() -> list[type[Any]]:
    """Return what changes training rows."""
    return [*get_args(get_args(Augmentation)[0])]
