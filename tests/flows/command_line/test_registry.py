"""The commands as people and scripts call them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.command_line.main import main
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore
from ftlib.testing import LABELS, tiny_classifier

RECIPE = {
    "name": "demo",
    "model": {"path": "models/tiny"},
    "datasets": {
        "tickets": {
            "source": {"kind": "files", "path": "rows.jsonl"},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32},
        }
    },
    "phases": [
        {
            "name": "probe",
            "dataset": "tickets",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "linear_probe"},
        }
    ],
    "evaluations": {"held_out": {"dataset": "tickets", "metrics": [{"kind": "accuracy"}]}},
    "select": {"by": "held_out/accuracy"},
    "publish": {"name": "demo"},
}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of a tiny classifier, published without the register stage."""
    root = tmp_path_factory.mktemp("registry")
    model = tiny_classifier(tmp_path_factory.mktemp("model"), LABELS)
    lineage = {"recipe": Recipe.model_validate(RECIPE).model_dump(mode="json"), "code": {"python": "3"}}
    lineage |= {"weights": {"siblings": ["one", "two"], "start": None}, "files": [{"uri": "a"}, {"uri": "b"}]}
    for n in (1, 2):
        (model / "README.md").write_text(f"version {n}")
        files = tuple(file_of(model, path.name) for path in sorted(model.iterdir()))
        manifest = Manifest(
            name="demo", description="Routes.", files=files, metrics={"held_out/accuracy": n / 4}, lineage=lineage
        )
        ModelRegistry(LocalStore(root)).publish(manifest, model, f"k{n}", lambda _: None, root.parent)
    return root


def call(registry: Path, *words: str, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [*words, "--registry", str(registry)], input=input)


def as_json(result: Result) -> dict[str, object]:
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def test_list_shows_the_newest_version_of_each_model_or_all_of_one(registry: Path):
    assert "demo@2" in call(registry, "registry", "list").stdout
    found = as_json(call(registry, "registry", "list", "--json"))
    assert found["registry"] == str(registry)
    assert [v["version"] for v in found["models"][0]["versions"]] == [1, 2]
    assert "demo@1" in call(registry, "registry", "list", "demo").stdout


def test_show_prints_facts_metrics_and_lineage(registry: Path):
    text = call(registry, "registry", "show", "demo@1").stdout
    for part in ("demo@1, published", "Routes.", "held_out/accuracy", "0.2500", "model.safetensors", "code.python"):
        assert part in text
    said = {parts[0]: parts[1].strip() for line in text.splitlines() if len(parts := line.split(maxsplit=1)) == 2}
    assert (said["weights.siblings"], said["weights.start"], said["files"]) == (
        "one, two",
        "none",
        "2; --json shows them",
    )
    found = as_json(call(registry, "registry", "show", "demo", "--json"))
    assert (found["version"], found["manifest"]["metrics"]) == (2, {"held_out/accuracy": 0.5})


def test_a_version_is_pulled_once_and_another_never_over_it(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert call(registry, "registry", "pull", "demo@1").stdout == f"demo@1 is now in {tmp_path / 'demo'}\n"
    assert (tmp_path / "demo" / "README.md").read_text() == "version 1"
    again = as_json(call(registry, "registry", "pull", "demo@1", "demo", "--json"))
    assert (again["created"], again["folder"]) == (False, str(tmp_path / "demo"))
    refused = call(registry, "registry", "pull", "demo@2", "demo")
    assert refused.exit_code == 6
    assert refused.stderr.startswith("reglage: ")
    assert "README.md has other bytes" in refused.stderr


def test_a_version_as_it_was_published_has_no_fault(registry: Path):
    assert call(registry, "registry", "verify", "demo").stdout.endswith("all as recorded\n")
    assert as_json(call(registry, "registry", "verify", "demo", "--json"))["faults"] == []


def test_verify_finds_a_flipped_bit_and_says_so(registry: Path):
    opened = ModelRegistry(LocalStore(registry))
    file = next(f for f in opened.manifest(opened.version("demo", 2)).files if f.path == "README.md")
    blob = registry / file.blob
    right = blob.read_bytes()
    blob.write_bytes(right[:-1] + b"3")
    try:
        result = call(registry, "registry", "verify", "demo@2")
        assert result.exit_code == 6
        assert result.stderr.startswith("reglage: demo@2: README.md: ")
        error = as_json(call(registry, "registry", "verify", "demo@2", "--json"))["error"]
        assert error["kind"] == "IntegrityError"
        assert call(registry, "registry", "verify", "demo@1").exit_code == 0
    finally:
        blob.write_bytes(right)


@pytest.fixture
def moving(registry: Path, tmp_path: Path) -> Path:
    """A copy, whose aliases may be moved."""
    shutil.copytree(registry, tmp_path / "moving")
    return tmp_path / "moving"


def test_reasons_and_names_are_printed_as_they_were_written(moving: Path):
    why, who = "see [/x], [bot] and :x:", "[red]ann"
    call(moving, "registry", "promote", "demo@1", "--who", who, "--why", why)
    shown = call(moving, "registry", "history", "demo")
    assert shown.exit_code == 0
    assert f" {who} " in shown.stdout
    assert f" {why}" in shown.stdout


def test_promote_rollback_and_history(moving: Path):
    said = call(moving, "registry", "promote", "demo@1", "--who", "ann", "--why", "the first").stdout
    assert said == "demo@champion is now version 1, entry 1\n"
    entry = as_json(call(moving, "registry", "promote", "demo", "--who", "bob", "--why", "better", "--json"))
    assert (entry["version"], entry["sequence"], entry["moved"]) == (2, 2, True)
    assert call(moving, "registry", "promote", "demo@2").stdout == "demo@champion was already version 2, entry 2\n"
    assert "Routes." in call(moving, "registry", "show", "demo@champion").stdout
    assert "champion: 2" in call(moving, "registry", "list").stdout
    assert as_json(call(moving, "registry", "list", "--json"))["models"][0]["aliases"] == {"champion": 2}
    back = call(moving, "registry", "rollback", "demo", "--why", "complaints").stdout
    held = "; no retraining promotes until a person does"
    assert back == f"demo@champion is now version 1 (before: version 2), entry 3{held}\n"
    text = call(moving, "registry", "history", "demo").stdout
    assert all(word in text for word in ("the first", "ann", "better", "bob", "complaints"))
    entries = as_json(call(moving, "registry", "history", "demo", "--json"))["entries"]
    assert [e["version"] for e in entries] == [1, 2, 1]


def test_a_decision_that_came_too_late(moving: Path):
    call(moving, "registry", "promote", "demo@1", "--who", "ann")
    late = call(moving, "registry", "promote", "demo@2", "--expected", "0")
    assert late.exit_code == 6
    assert "ann moved it to version 1" in late.stderr
    assert late.stderr.count("\n") == 1
    error = as_json(call(moving, "registry", "promote", "demo@2", "--expected", "0", "--json"))["error"]
    assert error["kind"] == "ConflictError"


def test_fsck_exits_with_6_where_a_file_is_missing(moving: Path):
    assert call(moving, "registry", "fsck", "--deep").exit_code == 0
    assert as_json(call(moving, "registry", "fsck", "--json"))["ok"]
    opened = ModelRegistry(LocalStore(moving))
    (moving / opened.manifest(opened.version("demo", 1)).files[0].blob).unlink()
    result = call(moving, "registry", "fsck")
    assert result.exit_code == 6
    assert "is missing" in result.stdout
    broken = call(moving, "registry", "fsck", "--json")
    assert broken.exit_code == 6
    assert [fault["path"][:6] for fault in as_json(broken)["faults"]] == ["blobs/"]


def test_garbage_is_deleted_by_the_second_run_with_delete_and_not_before(moving: Path):
    garbage = moving / "blobs" / "sha256" / "ab" / ("ab" * 32)
    garbage.parent.mkdir(exist_ok=True)
    garbage.write_bytes(b"x")
    assert call(moving, "registry", "gc", "--grace", "0").stdout.endswith("0.0 MB would be deleted; --delete acts\n")
    assert not (moving / "gc").exists()
    assert as_json(call(moving, "registry", "gc", "--grace", "0", "--delete", "--json"))["deleted"] == []
    assert garbage.exists()
    assert "run 2: 1 object, 0.0 MB deleted" in call(moving, "registry", "gc", "--grace", "0", "--delete").stdout
    assert not garbage.exists()
    assert call(moving, "registry", "fsck", "--deep").exit_code == 0


def test_export_to_a_folder(registry: Path, tmp_path: Path):
    target = tmp_path / "out"
    said = call(registry, "registry", "export", "hf-folder", "demo@1", str(target)).stdout
    assert said == f"demo@1 is now in {target}\n"
    assert "version 1" in (target / "README.md").read_text()
    again = as_json(call(registry, "registry", "export", "hf-folder", "demo@1", str(target), "--json"))
    assert again["created"] is False


def test_an_export_to_mlflow_is_made_once(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert call(registry, "registry", "export", "mlflow", "demo").stdout == "demo@2 is now demo version 1 in MLflow\n"
    again = as_json(call(registry, "registry", "export", "mlflow", "demo", "--json"))
    assert (again["mlflow"]["created"], again["mlflow"]["version"]) == (False, "1")


def test_an_export_without_mlflow_says_what_to_install(registry: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what an import of a package that is not there meets
    result = call(registry, "registry", "export", "mlflow", "demo", "--tracking-uri", "sqlite://")
    assert result.exit_code == 2
    assert result.stderr == "reglage: MLflow is not installed; pip install 'reglage[mlflow]'\n"


def test_a_key_that_did_not_sign(registry: Path, tmp_path: Path):
    key = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run([*key, "-out", tmp_path / "key"], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "key", "-pubout", "-out", tmp_path / "pub"], check=True)
    for words in (["registry", "verify", "demo"], ["registry", "pull", "demo", str(tmp_path / "out")]):
        result = call(registry, *words, "--key", str(tmp_path / "pub"))
        assert result.exit_code == 6
        assert "demo@2 is not signed by" in result.stderr
        assert result.stderr.count("\n") == 1
    assert call(registry, "registry", "verify", "demo", "--key", str(tmp_path / "key")).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_passes_the_probe(tmp_path: Path):
    found = as_json(call(tmp_path, "registry", "probe", "--rounds", "2", "--json"))
    assert (found["safe"], found["rounds"], found["writers"]) == (True, 2, 16)


def test_text_lines_and_json_hold_the_same_predictions(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lines = "refund please\n\ncrash and freeze"
    rows = [line.split("\t") for line in call(registry, "predict", "demo", input=lines).stdout.splitlines()]
    assert len(rows) == 3
    found = as_json(call(registry, "predict", "demo", "--json", input=lines))
    assert [row[0] for row in rows] == [p["label"] for p in found["predictions"]]
    assert all(sum(p["probabilities"].values()) == pytest.approx(1) for p in found["predictions"])


def test_predict_names_the_line_it_cannot_read(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = call(registry, "predict", "demo", input=b"fine\n\xff\xfe\n")
    assert result.exit_code == 3
    assert result.stderr == "reglage: stdin line 2 is not UTF-8 (byte 0); convert it first\n"
    for encoding in ("UTF-16LE", "UTF-16BE"):
        result = call(registry, "predict", "demo", input="the refund\ncard call\n".encode(encoding))
        assert result.exit_code == 3
        assert result.stderr.startswith(f"reglage: stdin line 1 is {encoding}, allowed is UTF-8; convert it: iconv -f ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["registry", "show", "nope"], 6, "has no model 'nope'; it has demo"),
        (["registry", "list", "nope"], 6, "has no model 'nope'; it has demo"),
        (["registry", "show", "demo@7"], 6, "has no demo@7; the versions are 1-2"),
        (["registry", "show", "demo@champion"], 6, "has no alias demo@champion; its aliases are none"),
        (["registry", "history", "demo"], 6, "demo@champion was never set"),
        (["registry", "history", "nope"], 6, "has no model 'nope'; it has demo"),
        (["registry", "rollback", "demo"], 6, "demo@champion was never set"),
        (["registry", "promote", "demo@9"], 6, "has no demo@9; the versions are 1-2"),
        (["registry", "promote", "demo@1", "--alias", "v2"], 2, "alias 'v2'"),
        (["predict", "demo@champion"], 6, "has no alias demo@champion"),
        (["registry", "show", "../x"], 2, "model name '../x'"),
        (["registry", "gc", "--grace", "-1"], 2, "--grace: got -1, allowed are days from 0 on"),
        (["registry", "gc", "--lease", "nan"], 2, "--lease: got nan, allowed are days from 0 on"),
        (
            ["registry", "verify", "demo", "--key", __file__],
            2,
            "is no public key in a PEM file: it holds something else",
        ),
        (["predict", "demo@"], 2, "write a model's name"),
    ],
)
def test_mistakes_are_one_line(registry: Path, words: list[str], code: int, said: str):
    result = call(registry, *words, input="")
    assert result.exit_code == code
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_without_a_registry_is_told_and_not_made(tmp_path: Path):
    result = call(tmp_path / "typo", "registry", "list")
    assert result.exit_code == 6
    assert "there is no registry at" in result.stderr
    assert not (tmp_path / "typo").exists()


def test_predict_names_the_version_and_not_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, opened = tmp_path / "bare", ModelRegistry(LocalStore(tmp_path / "bare_registry"))
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    manifest = Manifest(name="bare", description="", files=(file_of(folder, "config.json"),), metrics={}, lineage={})
    opened.publish(manifest, folder, "k", lambda _: None, tmp_path)
    result = call(tmp_path / "bare_registry", "predict", "bare", input="text")
    assert result.stderr.startswith("reglage: bare@1 is no version pulled from a registry")
    assert str(tmp_path / "cache") not in result.stderr
