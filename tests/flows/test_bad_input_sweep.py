"""Every command over what strangers give it: one line that says what is wrong, an exit code of the table, no traceback.

What each message says is tested where it is made; here it is only that nothing slips through as another library's
error, whichever command meets it.
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from flows.command_line.console import ReglageGroup
from flows.command_line.main import main
from flows.command_line.options import recipe_argument, set_option, work_option
from flows.run import jobs
from ftlib.models.folder import find_model
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.stages.base import base
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_causal_lm, tiny_checkpoint, tiny_recipe
from ftlib.workspace import Workspace

RECIPE, ROWS, MODEL, STORE = 2, 3, 4, 6


@click.group(cls=ReglageGroup)
def stages() -> None:
    """Hold what a run does in a flow, without its server."""


@stages.command("begin")
@recipe_argument
@set_option
@work_option
def begin(recipe: Path, overrides: tuple[str, ...], work: Path) -> None:
    """Load the base model as `run` does before it trains."""
    found = load_recipe(recipe, overrides)
    base(jobs.base_job(found, find_model(found.model), LABELS), Workspace(work))


def one_line(result: Result, *codes: int) -> str:
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("reglage: ")
    assert len(line) > len("reglage: ") + 20
    assert result.exit_code in codes, line
    return line


def call(*words: object, group: click.Group = main, input: bytes = b"a refund please\n") -> Result:
    return CliRunner().invoke(group, prog_name="reglage", args=[str(word) for word in words], input=input)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, its rows and base; a trained model, the same published and pulled, and a language model beside them."""
    folder = tmp_path_factory.mktemp("sweep")
    recipe = load_recipe(tiny_recipe(folder))
    tiny_checkpoint(folder / "trained")
    tiny_causal_lm(folder / "language")
    model, registry = folder / "trained" / "model", ModelRegistry(LocalStore(folder / "registry"))
    files = tuple(file_of(model, path.name) for path in sorted(model.iterdir()))
    manifest = Manifest(
        name="demo", description="", files=files, metrics={}, lineage={"recipe": recipe.model_dump(mode="json")}
    )
    registry.publish(manifest, model, "k", lambda _: None, folder)
    registry.promote("demo", "champion", 1, None, "a test", "it is whole")
    registry.pull(registry.version("demo", 1), folder / "pulled")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


# Model folders.


def config(**changed: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        for name, value in changed.items():
            if value is None:
                del found[name]
            else:
                found[name] = value
        (folder / "config.json").write_text(json.dumps(found))

    return damage


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def only(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(data)

    return damage


def cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def without(*names: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return damage


def as_folder(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def adapter(folder: Path) -> None:
    emptied(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "some/base"}')
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


def tokenizer(**changed: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps({**found, **changed}))

    return damage


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4a" * 32 + b"\nsize 12345\n"
INDEX = b'{"weight_map": {"bert.pooler.dense.weight": "model-00001-of-00002.safetensors"}}'
WEIGHTS: dict[str, Callable[[Path], None]] = {
    "weights cut off": cut("model.safetensors", 0.5),
    "weights cut off in the header": cut("model.safetensors", 0.001),
    "weights empty": write("model.safetensors", b""),
    "weights of noise": write("model.safetensors", bytes(range(256)) * 8),
    "weights a git-lfs pointer": write("model.safetensors", LFS),
    "weights a folder": as_folder("model.safetensors"),
    "no weights": without("model.safetensors"),
    "weights of no tensor": write("model.safetensors", struct.pack("<Q", 2) + b"{}"),
    "a pickle alone": only("pytorch_model.bin", b"\x80\x04}."),
    "a shard missing": only("model.safetensors.index.json", INDEX),
    "an index that is no JSON": only("model.safetensors.index.json", b"{"),
    "an index that is a list": only("model.safetensors.index.json", b"[]"),
    "an index of numbers": only("model.safetensors.index.json", b'{"weight_map": {"a": 1}}'),
    "an index that leads out": only("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}'),
    "an adapter": adapter,
}
MODELS: dict[str, Callable[[Path], None]] = {
    "missing": shutil.rmtree,
    "empty": emptied,
    "no config": without("config.json"),
    "config empty": write("config.json", b""),
    "config no JSON": write("config.json", b"{'a': 1}"),
    "config not UTF-8": write("config.json", b"\xff\xfe{\x00}\x00"),
    "config binary": write("config.json", bytes(range(256))),
    "config a list": write("config.json", b"[]"),
    "config a number": write("config.json", b"1"),
    "config null": write("config.json", b"null"),
    "config {}": write("config.json", b"{}"),
    "config deep": write("config.json", b"[" * 100_000),
    "config a git-lfs pointer": write("config.json", LFS),
    "config a folder": as_folder("config.json"),
    "an unknown model_type": config(model_type="bart9000"),
    "model_type a number": config(model_type=3),
    "no model_type": config(model_type=None),
    "quantised": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "code of its own": config(auto_map={"AutoModel": "modeling_own.OwnModel"}),
    "hidden_size a word": config(hidden_size="many"),
    "hidden_size negative": config(hidden_size=-4),
    "heads that do not divide": config(num_attention_heads=5),
    "another vocabulary": config(vocab_size=7),
    "huge": config(hidden_size=2**40),
    "activation unknown": config(hidden_act="gelu9000"),
    "tokenizer.json no JSON": write("tokenizer.json", b"{"),
    "tokenizer.json empty": write("tokenizer.json", b""),
    "tokenizer.json a list": write("tokenizer.json", b"[]"),
    "tokenizer.json of an unknown model": tokenizer(model={"type": "Nothing"}),
    "tokenizer.json a git-lfs pointer": write("tokenizer.json", LFS),
    "tokenizer.json a folder": as_folder("tokenizer.json"),
    "tokenizer_config.json no JSON": write("tokenizer_config.json", b"{"),
    "tokenizer_config.json a list": write("tokenizer_config.json", b"[]"),
    "no tokenizer": without("tokenizer.json", "tokenizer_config.json"),
    **WEIGHTS,
}
LABELLED: dict[str, Callable[[Path], None]] = {
    "id2label not numbers": config(id2label={"one": "billing", "two": "bug", "three": "sales"}),
    "id2label a list": config(id2label=["billing", "bug", "sales"]),
    "id2label a word": config(id2label="billing"),
    "id2label with holes": config(id2label={"0": "billing", "1": "bug", "7": "sales"}),
    "id2label of numbers": config(id2label={"0": 1, "1": 2, "2": 3}),
}


def damaged(whole: Path, folder: Path, damage: Callable[[Path], None]) -> Path:
    shutil.copytree(whole, folder)
    damage(folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_a_base_that_cannot_be_used(name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "model", tmp_path / "model", MODELS[name])
    said = call(
        "begin", place / "tiny.yaml", "--set", f"model.path={folder}", "--work", tmp_path / "work", group=stages
    )
    one_line(said, MODEL)


@pytest.mark.parametrize("name", ["empty", "config a list", "quantised", "tokenizer.json empty", "an adapter"])
def test_a_plan_of_such_a_base(name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "model", tmp_path / "model", MODELS[name])
    one_line(call("plan", place / "tiny.yaml", "--set", f"model.path={folder}", "--work", tmp_path / "work"), MODEL)


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.parametrize(
    "name", ["config a list", "heads that do not divide", "tokenizer.json a list", "weights empty"]
)
@pytest.mark.parametrize("command", ["run", "retrain"])
def test_a_run_of_such_a_base(command: str, name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "model", tmp_path / "model", MODELS[name])
    words = [
        "-m",
        "flows.command_line.main",
        command,
        place / "tiny.yaml",
        "--set",
        f"model.path={folder}",
        "--work",
        tmp_path / "work",
    ]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == MODEL
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("reglage: ")


@pytest.mark.parametrize("name", [*MODELS, *LABELLED])
def test_a_model_that_cannot_be_asked(name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "pulled", tmp_path / "model", {**MODELS, **LABELLED}[name])
    said = call("predict", folder)
    if name == "id2label of numbers":  # as transformers takes them: their names are their digits
        assert said.exit_code == 0, said.output
        assert said.stdout.split("\t")[0] in {"1", "2", "3"}
    else:
        one_line(said, MODEL)


MEASURED = ["missing", "config {}", "hidden_size a word", "huge", "no tokenizer", "weights cut off", "an adapter"]


@pytest.mark.parametrize("name", [*MEASURED, *LABELLED])
def test_a_model_that_cannot_be_measured(name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "trained" / "model", tmp_path / "model", {**MODELS, **LABELLED}[name])
    said = call("evaluate", folder, "--recipe", place / "tiny.yaml", "--work", place / "work", "--evaluation", "away")
    one_line(said, ROWS if name == "id2label of numbers" else MODEL)  # the rows' labels are none of the model's


@pytest.mark.parametrize("name", [*MODELS, *LABELLED])
def test_a_model_that_cannot_be_merged(name: str, place: Path, tmp_path: Path) -> None:
    folder = damaged(place / "trained" / "model", tmp_path / "model", {**MODELS, **LABELLED}[name])
    said = call("interpolate", place / "trained" / "model", folder, "--alpha", 0.5, "--out", tmp_path / "out")
    if said.exit_code:
        one_line(said, MODEL)
    else:  # tensors alone are merged: a config or a tokenizer that says other things is warned of
        assert not {name} & {*WEIGHTS, *LABELLED}
        assert "Traceback" not in said.output
    assert (tmp_path / "out").exists() == (said.exit_code == 0)


@pytest.mark.parametrize("name", ["missing", "config a list", "an unknown model_type", "huge", *WEIGHTS])
def test_a_model_that_cannot_be_asked_tasks(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ftlib.evaluation.lm_eval_suites.check_installed", lambda: None
    )  # lm-eval, which is not reached
    folder = damaged(place / "language", tmp_path / "model", MODELS[name])
    one_line(call("suite", folder, "--task", "arc_easy"), MODEL)


# Recipes.


def edited(old: str, new: str) -> Callable[[str], bytes]:
    def edit(text: str) -> bytes:
        assert old in text
        return text.replace(old, new, 1).encode()

    return edit


RECIPES: dict[str, Callable[[str], bytes]] = {
    "empty": lambda _: b"",
    "white space": lambda _: b" \n\n",
    "a comment": lambda _: b"# nothing\n",
    "a list": lambda _: b"- a\n- b\n",
    "a word": lambda _: b"name\n",
    "a number": lambda _: b"3\n",
    "a tab": edited("  home:", "\thome:"),
    "an unknown field": edited("select:", "selekt:"),
    "a wrong kind": edited("kind: labeled_text", "kind: labelled_text"),
    "no kind": edited("tuning: {kind: full}", "tuning: {}"),
    "a kind that is a list": edited("kind: full", "kind: [full]"),
    "a missing dataset": edited("evaluations:\n  home: {dataset: home", "evaluations:\n  home: {dataset: there"),
    "a list for a mapping": edited("tuning: {kind: full}", "tuning: [full]"),
    "a word for a number": edited("epochs: 1", "epochs: one"),
    "not a number": edited("epochs: 1", "epochs: .nan"),
    "negative": edited("epochs: 1", "epochs: -1"),
    "binary": lambda _: bytes(range(256)),
    "NUL": lambda text: text.encode().replace(b"name: tiny", b"name: ti\0ny", 1),
    "not UTF-8": lambda text: text.encode() + b"# \xe9\n",
    "UTF-16": lambda text: text.encode("utf-16"),
    "two documents": lambda text: f"{text}---\n{text}".encode(),
    "a key twice": lambda text: f"{text}name: again\n".encode(),
    "an anchor of itself": lambda _: b"name: &a [*a]\n",
    "an unknown tag": edited("name: tiny", "name: !!python/object:os.system tiny"),
    "a deep one": lambda _: b"name: " + b"[" * 400,
    "an unclosed brace": lambda text: f"{text}more: {{a: 1\n".encode(),
    "JSON of a list": lambda _: b"[1]",
    "gzip": lambda text: gzip.compress(text.encode()),
}
WITH_RECIPE = {
    "check": (),
    "plan": (),
    "run": (),
    "retrain": (),
    "evaluate": ("trained", "--recipe"),
}


def with_recipe(command: str, recipe: Path, place: Path) -> Result:
    before = [place / word if word == "trained" else word for word in WITH_RECIPE[command]]
    return call(command, *before, recipe, *(() if command == "check" else ("--work", "work")))


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("check", name) for name in RECIPES)]
    + [(command, name) for command in [*WITH_RECIPE][1:] for name in ("empty", "a deep one", "a wrong kind")],
)
def test_a_recipe_that_cannot_be_read(command: str, name: str, place: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_bytes(RECIPES[name]((place / "tiny.yaml").read_text()))
    said = with_recipe(command, recipe, place)
    lines = said.stderr.splitlines()
    assert all(line.startswith("reglage: ") for line in lines)  # one for each problem
    assert len(set(lines)) == len(lines)
    assert 1 <= len(lines) <= (9 if name in ("an unknown field", "an anchor of itself") else 2)
    assert (said.exit_code, said.stdout) == (RECIPE, "")
    assert said.exception is None or isinstance(said.exception, SystemExit)


@pytest.mark.parametrize("command", WITH_RECIPE)
def test_a_recipe_that_is_no_file(command: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("folder.yaml", "missing.yaml", "loop.yaml", f"{'x' * 300}.yaml", "folder.yaml/below.yaml"):
        one_line(with_recipe(command, tmp_path / name, place), RECIPE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("command", WITH_RECIPE)
def test_a_recipe_that_may_not_be_read(command: str, place: Path, tmp_path: Path) -> None:
    shutil.copy(place / "tiny.yaml", tmp_path / "closed.yaml")
    (tmp_path / "closed.yaml").chmod(0)
    one_line(with_recipe(command, tmp_path / "closed.yaml", place), RECIPE)


# Row files.

ROW = b'{"text": "a refund", "label": "billing"}\n'
FILES: dict[str, bytes] = {
    "empty.jsonl": b"",
    "empty.csv": b"",
    "empty.parquet": b"",
    "empty.json": b"",
    "empty.jsonl.gz": b"",
    "blank.jsonl": b"\n \n\n",
    "binary.jsonl": bytes(range(256)) * 40,
    "binary.csv": bytes(range(256)) * 40,
    "binary.parquet": bytes(range(256)) * 40,
    "plain.jsonl.gz": ROW * 40,
    "bzip2.jsonl.gz": bz2.compress(ROW * 40),
    "gzip.jsonl": gzip.compress(ROW * 40),
    "gzip.parquet": gzip.compress(ROW * 40),
    "cut.jsonl.gz": gzip.compress(b"".join(b'{"text": "row %d"}\n' % i for i in range(900)))[:600],
    "cut.parquet": b"PAR1" + bytes(300),
    "header.csv": b"text,label\n",
    "tabs.csv": b"text\tlabel\nrefund\tbilling\n" * 9,
    "list.jsonl": b"[" + b",".join([ROW.strip()] * 9) + b"]",
    "pretty.jsonl": json.dumps([{"text": "a"}], indent=1).encode(),
    "object.json": b'{"data": 3}',
    "number.json": b"3",
    "deep.jsonl": b"[" * 100_000 + b"\n",
    "nul.jsonl": b"\0" * 5_000,
    "nul.csv": b"\0" * 5_000,
    "bad.jsonl": b"{\n" * 60,
    "lists.jsonl": b"[1]\n" * 60,
    "numbers.jsonl": b"3\n" * 60,
    "nulls.jsonl": b'{"text": null, "label": null}\n' * 60,
    "others.jsonl": b'{"sentence": "a", "intent": "b"}\n' * 60,
    "wrong_types.jsonl": b'{"text": {"a": 1}, "label": [1]}\n' * 60,
    "utf16.csv": ("text,label\n" + "refund,billing\n" * 60).encode("utf-16"),
    "latin.csv": b"text,label\n" + "é,billing\n".encode("latin-1") * 60,
    "pointer.jsonl": LFS,
    "page.jsonl": b"<!DOCTYPE html><html><body>404</body></html>\n",
    "zip.jsonl": b"PK\x03\x04" + bytes(200),
    "name.txt": b"some words\n" * 60,
    "one.jsonl": ROW,
    "one_label.jsonl": b"".join(b'{"text": "refund %d", "label": "billing"}\n' % i for i in range(90)),
}


def with_rows(command: str, path: Path, place: Path, work: Path) -> Result:
    words: list[object] = ["--set", f"datasets.home.source.path={path}", "--work", work]
    if command == "plan":
        return call("plan", "--prepare", place / "tiny.yaml", *words)
    return call("evaluate", place / "trained" / "model", "--recipe", place / "tiny.yaml", *words)


@pytest.mark.parametrize(
    ("command", "name"),
    [*(("plan", name) for name in FILES)]
    + [("evaluate", name) for name in ("empty.csv", "binary.jsonl", "cut.parquet", "list.jsonl", "bad.jsonl")],
)
def test_rows_that_cannot_be_read(command: str, name: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    said = with_rows(command, tmp_path / name, place, tmp_path / "work")
    one_line(said, ROWS)


@pytest.mark.parametrize("command", ["plan", "evaluate"])
def test_rows_that_are_no_file(command: str, place: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "dangling.jsonl").symlink_to("nowhere.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name in ("missing.jsonl", "folder.jsonl", "loop.jsonl", "dangling.jsonl", "pipe.jsonl", "x" * 300, "[.jsonl"):
        one_line(with_rows(command, tmp_path / name, place, tmp_path / "work"), ROWS, RECIPE)
    one_line(with_rows(command, Path("s3://"), place, tmp_path / "work"), RECIPE, ROWS, STORE)


# Registries.

REGISTRY = [
    ["list"],
    ["list", "demo"],
    ["show", "demo"],
    ["pull", "demo", "out"],
    ["verify", "demo"],
    ["promote", "demo@1"],
    ["rollback", "demo"],
    ["history", "demo"],
    ["copy", "demo@1", "--to", "copies"],
    ["export", "hf-folder", "demo", "out"],
    ["export", "mlflow", "demo", "--tracking-uri", "sqlite:///mlflow.db"],
    ["fsck"],
    ["gc"],
]
READERS = [
    *(["registry", *words] for words in REGISTRY),
    ["lineage", "demo"],
    ["lineage", "--row", "0" * 32],
    ["lineage", "demo", "--key", "a"],
    ["predict", "demo"],
    ["evaluate", "demo@1", "--recipe", "RECIPE"],
    ["interpolate", "demo@1", "demo@2", "--alpha", "0.5", "--out", "merged"],
]


def test_every_command_of_the_registry_is_swept() -> None:
    from flows.command_line.registry import registry

    assert {words[0] for words in REGISTRY} | {"probe", "publish"} == {*registry.commands}


def called_with(words: list[str], place: Path, registry: Path | str) -> Result:
    return call(*(place / "tiny.yaml" if word == "RECIPE" else word for word in words), "--registry", registry)


@pytest.mark.parametrize("words", READERS, ids=" ".join)
def test_a_registry_that_is_none(words: list[str], place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no registry")
    (tmp_path / "empty").mkdir()
    for uri in ("missing", "file", "file/below", "empty", "s3://", "http://there/bucket", "ftp:x", "x" * 300):
        one_line(called_with(words, place, uri), STORE, RECIPE)
    assert not (tmp_path / "missing").exists()


def records(root: Path) -> list[Path]:
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.stat().st_size < 20_000 and "blobs" not in path.parts
    ]


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: path.write_bytes(b"[]"),
    "binary": lambda path: path.write_bytes(bytes(range(256))),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_registry_whose_records_are_damaged(damage: str, place: Path, tmp_path: Path) -> None:
    for kind in sorted({path.relative_to(place / "registry").parts[:1] for path in records(place / "registry")}):
        root = tmp_path / "-".join(kind)
        shutil.copytree(place / "registry", root)
        for path in records(root):
            if path.relative_to(root).parts[:1] == kind:
                DAMAGE[damage](path)
        for words in READERS:
            said = called_with(words, place, root)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
            assert "Traceback" not in said.output
            assert said.exception is None or isinstance(said.exception, SystemExit), (words, kind, said.exception)
            if said.exit_code and words[1] not in ("fsck", "gc", "--row"):  # they list what they find
                one_line(said, STORE, RECIPE, MODEL)
