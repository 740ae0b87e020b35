"""Guesses about files, against what the recipes of recipes/ say of rows like theirs, and against tables made for it."""

import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from ftlib.data.guess import Guess, guess
from ftlib.data.guess import sample as sampling
from ftlib.data.rows import Example, Row
from ftlib.errors import DataError
from ftlib.recipe.draft import draft
from ftlib.recipe.examples import examples
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_preferences, tiny_thumbs

Rows = list[dict[str, Any]]
WORDS = ("login", "crash", "invoice", "page", "parcel", "refund", "slow", "mobile", "payment", "error", "help", "total")
LABELS = ["bug", "billing", "other"]


def text(chance: random.Random, words: int = 8) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


def made(count: int = 120, **columns: Any) -> Rows:
    """Rows whose columns are values, or functions of chance and the row's number."""
    chance = random.Random(0)
    return [{n: c(chance, i) if callable(c) else c for n, c in columns.items()} for i in range(count)]


def a_text(chance: random.Random, _: int) -> str:
    return text(chance)


def a_label(chance: random.Random, _: int) -> str:
    return chance.choice(LABELS)


def jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def guessed(folder: Path, rows: Rows) -> Guess:
    """Guess, and hold the recipe to what is guessed: it is one."""
    found = guess([jsonl(folder / "rows.jsonl", rows)], "mine", folder)
    file = folder / "mine.yaml"
    file.write_text(draft(found, "mine"), encoding="utf-8")
    dataset = load_recipe(file).datasets["mine"]
    said = dataset.format.model_dump(mode="json")
    assert found.format.items() <= said.items()
    assert dataset.format.yields == found.kind
    assert found.split.items() <= dataset.split.model_dump().items()
    return found


def like(value: Any, key: str, chance: random.Random, i: int) -> Any:
    """Return another value of the sort that a recipe's comment shows."""
    match value:
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            return f"2026-{1 + i % 12:02d}-{1 + i % 28:02d}"
        case str() if " " in value:
            return f"{value} {text(chance)}"
        case str() if key in ("question", "body"):
            return text(chance)
        case str():
            return chance.choice([value, f"{value}-b", f"{value}-c"])
        case float():
            return round(chance.uniform(1, 5), 1)
        case list() if key == "tags" and "O" not in value:
            return chance.sample(value, chance.randint(0, len(value)))
        case [*parts] if "O" in parts or key == "words":
            return [*parts, *("O" if "O" in parts else text(chance, 1) for _ in range(2 + i % 5))]
        case [{"role": _}, *_]:
            return [{**turn, "content": text(chance)} for turn in value]
        case _:
            return value


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("local_files", {"max_tokens"}),
        ("multi_label", {"max_tokens"}),
        ("regression", {"max_tokens"}),
        ("token_classification", {"max_tokens"}),
        ("text_pairs", {"max_tokens"}),
        ("chat", {"max_tokens"}),
        ("question_answering", {"max_tokens", "stride", "unanswerable"}),
        ("completions", {"max_tokens"}),
        ("retrieval", {"max_tokens"}),
    ],
)
def test_rows_as_a_recipe_shows_them_are_laid_out_as_it_does(tmp_path: Path, name: str, left_out: set[str]) -> None:
    """The row is the one in the recipe's own comment; the format is the one that its author wrote."""
    recipe = examples()[name]
    (shown,) = re.findall(r"^# .*?(\{\"(?:.*)\})$", recipe.read_text(), re.MULTILINE)[:1]
    row = json.loads(shown.replace('"..."', '"a word or two"').replace(" ...", ""))
    chance = random.Random(1)
    rows = [{key: like(value, key, chance, i) for key, value in row.items()} for i in range(90)]
    found = guessed(tmp_path, rows)
    theirs = next(iter(load_recipe(recipe).datasets.values()))
    wanted = theirs.format.model_dump(mode="json", exclude_defaults=True) | {"kind": theirs.format.kind}
    assert {k: v for k, v in found.format.items() if k not in left_out} == {
        key: value for key, value in json.loads(json.dumps(wanted)).items() if key not in left_out
    }
    assert name != "local_files" or found.split["by"] == theirs.split.by == "time"


@pytest.mark.parametrize(
    ("columns", "format_says", "split_by"),
    [
        ({"text": a_text, "label": a_label}, {"kind": "labeled_text", "text": "text", "label": "label"}, "random"),
        (
            {"id": lambda _, i: i, "note": a_text, "colour": a_label},
            {"kind": "labeled_text", "label": "colour"},
            "random",
        ),
        (
            {"text": a_text, "label": a_label, "customer_id": lambda c, _: f"c{c.randrange(40)}"},
            {"label": "label"},
            "group",
        ),
        (
            {"text": a_text, "label": a_label, "split": lambda _, i: ["train", "train", "validation", "test"][i % 4]},
            {"kind": "labeled_text"},
            "given",
        ),
        ({"text": a_text, "label": lambda _, i: LABELS[i % 60 > 57]}, {"kind": "labeled_text"}, "stratified"),
        ({"text": a_text, "label": lambda _, i: i % 2 == 0}, {"kind": "labeled_text"}, "random"),
        ({"text": a_text, "labels": lambda c, _: ";".join(c.sample(LABELS, 2))}, {"separator": ";"}, "random"),
        (
            {"review": a_text, "stars": lambda c, _: c.randint(1, 5)},
            {"kind": "scored_text", "score": "stars"},
            "random",
        ),
        ({"premise": a_text, "hypothesis": a_text, "label": a_label}, {"pair": "hypothesis"}, "random"),
        ({"instruction": a_text, "input": "", "output": a_text}, {"kind": "chat", "output": "output"}, "random"),
        (
            {"en": a_text, "fr": a_text},
            {"kind": "prompt_completion", "prefix": "Translate English to French: "},
            "random",
        ),
        ({"text": a_text}, {"kind": "plain_text"}, "random"),
    ],
)
def test_a_table(tmp_path: Path, columns: dict[str, Any], format_says: dict[str, Any], split_by: str) -> None:
    found = guessed(tmp_path, made(**columns))
    assert format_says.items() <= found.format.items()
    assert found.split["by"] == split_by
    assert found.looked == "120 rows, all of them fit"


def test_a_version_must_be_better_than_what_learns_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    many = [{"text": text(chance), "label": "b" if i % 5 == 0 else "a"} for i in range(40)]
    assert guessed(tmp_path, many).commonest == 0.8
    (gate,) = load_recipe(tmp_path / "mine.yaml").select.gates
    assert (gate.metric, gate.at_least) == ("mine/accuracy", 0.82)
    guessed(tmp_path, [{"text": text(chance), "score": round(chance.uniform(1, 5), 1)} for _ in range(40)])
    (gate,) = load_recipe(tmp_path / "mine.yaml").select.gates
    assert (gate.metric, gate.at_least) == ("mine/r2", 0.1)


def test_one_table_in_three_layouts_is_one_guess(tmp_path: Path) -> None:
    rows = made(text=a_text, label=a_label, day=lambda _, i: f"2026-03-{1 + i % 28:02d}")
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    jsonl(tmp_path / "rows.jsonl", rows)
    found = [guess([tmp_path / f"rows.{end}"], "mine", tmp_path) for end in ("jsonl", "csv", "parquet")]
    assert len({json.dumps([one.format, one.split, one.why_format, one.why_split]) for one in found}) == 1
    assert [one.source["path"] for one in found] == ["rows.jsonl", "rows.csv", "rows.parquet"]


def test_names_and_values_that_yaml_would_read_otherwise(tmp_path: Path) -> None:
    evil = "la'bel: [ # \n- x"
    found = guessed(tmp_path, made(**{evil: lambda c, _: c.choice(["a\nname: evil", "{b"]), "yes": a_text}))
    assert (found.format["label"], found.format["text"]) == (evil, "yes")


def test_several_files(tmp_path: Path) -> None:
    """A pattern of their own, else links; files that are called tests are apart."""
    rows = made(text=a_text, label=a_label)
    files = [jsonl(tmp_path / name, rows) for name in ("part-1.jsonl", "part-2.jsonl", "zebra.jsonl")]
    assert guess(files, "mine", tmp_path).source["path"] == f"{tmp_path.relative_to(tmp_path)}/"
    assert guess(files[:2], "mine", tmp_path).source["path"] == "part-*.jsonl"
    some = guess([files[0], files[2]], "mine", tmp_path)
    assert some.source["path"] == "rows/mine/"
    assert [*some.links.values()] == [str(files[0]), str(files[2])]
    jsonl(tmp_path / "hf" / "train.jsonl", rows)
    test = jsonl(tmp_path / "hf" / "test.jsonl", rows)
    apart = guess([tmp_path / "hf"], "mine", tmp_path)
    assert (apart.source["path"], apart.held_out["path"]) == ("hf/train.jsonl", "hf/test.jsonl")
    (tmp_path / "mine.yaml").write_text(draft(apart, "mine"))
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert {*recipe.evaluations} == {"mine", "held_out"}
    assert guess([test], "mine", tmp_path).held_out == {}


def images(folder: Path, names: list[str], size: int = 48) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size + 3)).save(folder / name)
    return folder


def test_folders_of_images(tmp_path: Path) -> None:
    by_first = images(tmp_path / "a", [f"{label}/{i}.png" for label in ("cat", "dog") for i in range(8)])
    found = guess([by_first], "pets", tmp_path)
    assert (found.source, found.format) == (
        {"kind": "image_folder", "path": "a/"},
        {"kind": "labeled_image", "pixels": 64},
    )
    by_last = images(
        tmp_path / "b",
        [f"{part}/{label}/{i}.png" for part in ("train", "val") for label in "xy" for i in range(4)],
        300,
    )
    found = guess([by_last], "letters", tmp_path)
    assert (found.source["label_level"], found.format) == (-1, {"kind": "labeled_image"})
    (tmp_path / "pets.yaml").write_text(draft(found, "letters"))
    assert load_recipe(tmp_path / "pets.yaml").datasets["letters"].format.yields == "labeled_images"
    with pytest.raises(DataError, match="name no label"):
        guess([images(tmp_path / "c", [f"{i}.png" for i in range(20)])], "none", tmp_path)


def annotated(file: Path, names: list[str]) -> Path:
    """Write a COCO file of two boxes an image, but for the last, which has none."""
    boxes = [{"image_id": i, "category_id": 1 + i % 2, "bbox": [1, 2, 3, 4]} for i in range(len(names) - 1)]
    pictures = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": pictures, "annotations": boxes * 2, "categories": categories}))
    return file


def test_annotated_images(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(40)]
    images(tmp_path / "photos", names)
    found = guess([annotated(tmp_path / "labels" / "instances.json", names)], "pets", tmp_path)
    assert found.source == {"kind": "coco", "path": "labels/instances.json", "images_in": "photos/"}
    assert (found.format, found.looked) == ({"kind": "boxed_image"}, "40 images with 78 boxes")
    assert any("1 image without any" in why for why in found.why_format)
    (tmp_path / "pets.yaml").write_text(draft(found, "pets"))
    assert load_recipe(tmp_path / "pets.yaml").datasets["pets"].format.yields == "boxed_images"
    beside = guess([annotated(tmp_path / "photos" / "all.json", names)], "pets", tmp_path)
    assert beside.source == {"kind": "coco", "path": "photos/all.json"}
    with pytest.raises(DataError, match=r"its first image, gone\.png, lies neither beside it nor in a folder beside"):
        guess([annotated(tmp_path / "labels" / "more.json", ["gone.png", *names])], "pets", tmp_path)
    with pytest.raises(DataError, match="3 images, at least 12 are needed"):
        guess([annotated(tmp_path / "few.json", names[:3])], "pets", tmp_path)


BROKEN = {
    "rows.json": (b'[{"text": "a"}]', "is no COCO JSON: .*needed are an object with the lists images"),
    "empty.jsonl": (b"", "no rows, at least 12"),
    "header.csv": (b"text,label\n", "no rows, at least 12"),
    "one.jsonl": (b'{"text": "a", "label": "b"}\n', "1 row, at least 12"),
    "noise.jsonl": (bytes(random.Random(0).randbytes(4000)), "cannot be read: .*is not UTF-8"),
    "numbers.jsonl": (b"".join(b'{"x": %d}\n' % i for i in range(40)), "the one column, 'x', holds no texts"),
    "lists.jsonl": (b"".join(b'{"x": [%d], "y": {}}\n' % i for i in range(40)), "no column holds texts, of x, y"),
    "distinct.jsonl": (
        b"".join(b'{"text": "about %d of them", "label": "l%d"}\n' % (i, i) for i in range(40)),
        "'label' is called a label, and 40 of its 40 values differ",
    ),
    "other.xlsx": (b"PK", "allowed are .jsonl"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_input_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(BROKEN[name][0])
    with pytest.raises(DataError, match=BROKEN[name][1]) as raised:
        guess([tmp_path / name], "mine", tmp_path)
    assert "\n" not in str(raised.value)


def test_files_that_are_not_there_or_are_no_one_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        guess([tmp_path / "nothing.jsonl"], "mine", tmp_path)
    with pytest.raises(DataError, match="files of this machine"):
        guess([Path("s3://bucket/rows")], "mine", tmp_path)
    one, other = jsonl(tmp_path / "a.jsonl", made(text=a_text)), jsonl(tmp_path / "b.jsonl", made(body=a_text, tag="x"))
    with pytest.raises(DataError, match=r"has the columns body, tag, and .* has text"):
        guess([one, other], "mine", tmp_path)


def test_a_large_file_is_read_as_far_as_its_sample_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is behind is not even valid: nobody comes so far. It is not hashed either."""
    monkeypatch.setattr(sampling, "BYTES", 20_000)
    monkeypatch.setattr(sampling, "pin_file", None)
    file = jsonl(tmp_path / "large.jsonl", made(5_000, text=a_text, label=a_label))
    with file.open("ab") as stream:
        stream.write(b"\xff" * 100_000)
    found = guess([file], "mine", tmp_path)
    count = int(found.looked.split()[0])
    assert 100 < count < 400
    assert "at the beginning" in found.looked


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (tiny_preferences(30), {"kind": "preference", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        (
            [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in tiny_preferences(30)],
            {"kind": "preference", "layout": "chats"},
        ),
        (tiny_thumbs(30), {"kind": "thumb", "prompt": "prompt", "answer": "answer", "label": "label"}),
    ],
    ids=["pairs", "chats", "thumbs"],
)
def test_preferences_are_told_by_their_columns(tmp_path: Path, rows: Any, says: dict[str, str]) -> None:
    found = guessed(tmp_path, rows)
    assert found.format.items() >= says.items()
    assert "scores: {reference: {phase: base}}" in draft(found, "mine")


def a_log(count: int, ups: float = 0.8, **named: str) -> Rows:
    """A log: each request has its answer on one line, its thumb on another, every second its correction on a third."""
    chance = random.Random(0)
    prompts = [text(chance) for _ in range(count)]
    lines: Rows = [{"request_id": i, "prompt": prompt, "answer": "no", "time": i} for i, prompt in enumerate(prompts)]
    for i in range(count):
        lines.append({"request_id": i, "thumb": "up" if i % 100 < 100 * ups else "down", "time": count + i})
        lines += [{"request_id": i, "correction": text(chance), "time": 2 * count + i}] if i % 2 else []
    return [{named.get(key, key): value for key, value in line.items()} for line in lines]


def drafted(folder: Path, *files: Path) -> Any:
    found = guess(files, "log", folder)
    (folder / "log.yaml").write_text(draft(found, "log"), encoding="utf-8")
    return load_recipe(folder / "log.yaml")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_feedback_log_makes_datasets_of_what_was_said(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = jsonl(tmp_path / "log.jsonl", lines := a_log(200))
    if suffix == "parquet":
        names = dict.fromkeys(name for line in lines for name in line)
        table = pa.table({name: [line.get(name) for line in lines] for name in names})
        parquet.write_table(table, path := tmp_path / "log.parquet")
    recipe = drafted(tmp_path, path)
    said = {name: (one.source.kind, one.source.gives, one.format.kind) for name, one in recipe.datasets.items()}
    assert said == {
        "corrections": ("feedback", "corrections", "prompt_completion"),
        "thumbs": ("feedback", "thumbs", "thumb"),
        "pairs": ("feedback", "pairs", "preference"),
    }
    assert [(phase.name, phase.objective.kind) for phase in recipe.phases] == [
        ("correct", "completion"),
        ("judge", "kto"),
    ]
    assert recipe.phases[1].objective.undesirable == 4.0  # 160 thumbs are up and 40 down
    assert {(one.key, one.split.by, one.split.column) for one in recipe.datasets.values()} == {
        ("request_id", "group", "prompt")
    }
    for dataset in recipe.datasets.values():
        rows = [row for row in dataset.source.read(dataset.source.pin(), 10_000) if isinstance(row, Row)]
        assert len(rows) in (100, 200)
        examples = [dataset.format.example(row.values) for row in rows]
        assert all(isinstance(one, Example) for one in examples)


def test_what_serve_logged_of_chats_is_a_feedback_log(tmp_path: Path) -> None:
    names = {"request_id": "request", "prompt": "input", "time": "at"}
    lines = a_log(60, ups=1.0, **names)
    answers = [line for line in lines if "input" in line]
    for line in answers:
        line |= {"input": [{"role": "user", "content": line["input"]}], "answer": {"text": "no"}, "version": 1}
    jsonl(tmp_path / "log/answers/1.jsonl", answers)
    jsonl(tmp_path / "log/labels/1.jsonl", [line for line in lines if "input" not in line])
    recipe = drafted(tmp_path, tmp_path / "log")
    assert {*recipe.datasets} == {"corrections", "pairs"}  # thumbs that are all up teach nothing
    source = recipe.datasets["corrections"].source
    assert (source.request, source.prompt, source.time, source.layout) == ("request", "input", "at", "chats")
    assert recipe.datasets["corrections"].format.kind == "chat"
    assert recipe.datasets["pairs"].format.layout == "chats"


def test_a_feedback_log_in_which_little_was_said_is_one_line(tmp_path: Path) -> None:
    lines = [line for line in a_log(40, ups=1.0) if "correction" not in line]
    with pytest.raises(
        DataError, match="log of 40 requests, of which too few were corrected or have thumbs both up and"
    ):
        guess([jsonl(tmp_path / "log.jsonl", lines)], "log", tmp_path)
    answers = [{"request_id": i, "prompt": text(random.Random(i)), "answer": "no"} for i in range(40)]
    assert guess([jsonl(tmp_path / "log.jsonl", answers)], "log", tmp_path).log == ()  # nobody said anything


def test_thumbs_alone_are_what_is_learnt(tmp_path: Path) -> None:
    lines = [line for line in a_log(100, ups=0.4) if "correction" not in line]
    recipe = drafted(tmp_path, jsonl(tmp_path / "log.jsonl", lines))
    (phase,) = recipe.phases
    assert (phase.dataset, phase.objective.desirable) == ("thumbs", 1.5)
    assert phase.scores["reference"].phase == "base"
    assert recipe.select.by == "thumbs/thumb_margin"
