"""The command line as users meet it: quick, one line per problem, one JSON object where asked."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from flows.command_line.main import main
from ftlib.merging.methods import METHODS
from ftlib.training.memory.cards import CARDS

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


def reglage(*arguments: object) -> Result:
    return CliRunner().invoke(main, prog_name="reglage", args=[str(argument) for argument in arguments])


def test_check_says_that_a_recipe_fits_together():
    result = reglage("check", QUICKSTART)
    assert result.exit_code == 0
    assert "probe (linear_probe) > tune (full)" in result.stdout


def test_check_writes_json_for_scripts():
    facts = json.loads(reglage("check", QUICKSTART, "--json").stdout)
    assert (facts["ok"], facts["phases"]) == (True, ["probe", "tune"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("phases.tune.optimzer.epochs=1", "did you mean 'optimizer'?"),
        ("phases.tune.tuning.kind=lorra", "full, frozen_layers, gradual_unfreezing, houlsby, ia3, linear_probe, lora"),
        ("select.by=shifted/f1", "'shifted/f1' is not measured"),
        ("no_equals_sign", "is no override"),
    ],
)
def test_a_bad_recipe_is_one_line_and_exit_code_2(override, says):
    result = reglage("check", QUICKSTART, "--set", override)
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert line.startswith("reglage: ")
    assert says in line


def test_a_bad_recipe_as_json_is_one_object():
    result = reglage("check", QUICKSTART, "--set", "seed=x", "--json")
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["exit_code"], result.exit_code) == ("RecipeError", 2, 2)


@pytest.mark.parametrize("command", ["run", "check", "plan"])
def test_an_absent_recipe_is_one_line_for_every_command(command, tmp_path):
    result = reglage(command, tmp_path / "absent.yaml")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["run", "retrain", "plan"])
def test_a_work_folder_that_cannot_be_is_one_line(command, tiny_recipe, tmp_path):
    (tmp_path / "file").write_text("")
    result = reglage(command, tiny_recipe, "--work", tmp_path / "file" / "work")
    assert (result.exit_code, result.stdout) == (6, "")
    (line,) = result.stderr.splitlines()
    assert "Not a directory" in line
    assert "choose another" in line


def test_a_card_that_is_not_known_is_one_line_with_those_that_are(tiny_recipe, tmp_path):
    result = reglage("plan", tiny_recipe, "--work", tmp_path / "work", "--prepare", "--card", "H100")
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("reglage: --card: got 'H100', allowed are ")
    assert all(name in line for name in CARDS)
    assert not (tmp_path / "work").exists()


def test_check_imports_nothing_heavy():
    """The reason that `check` takes a fraction of a second."""
    script = (
        "import sys; from flows.command_line.main import main; main(['check', sys.argv[1]], standalone_mode=False);"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script, str(QUICKSTART)], check=True, capture_output=True, text=True
    ).stdout
    loaded = set(json.loads(out.splitlines()[-1].replace("'", '"')))
    assert loaded.isdisjoint({"torch", "prefect", "ray", "transformers", "numpy", "pyarrow", "rich", "botocore"})


def test_the_schema_is_the_recipes(tmp_path):
    schema = json.loads(reglage("schema").stdout)
    assert {"name", "model", "datasets", "phases", "select", "publish"} <= set(schema["required"])


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


COMMANDS = dict([("reglage", main), *commands(main, "reglage")])
NO_VERB = {"a", "an", "the", "all", "any", "every", "published", "this"}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_speaks_as_the_others_do(path: str):
    command = COMMANDS[path]
    first = inspect.cleandoc(command.help or "").split("\n\n")[0]
    assert first[:1].isupper()
    assert first.endswith(".")
    assert len(first) <= 120
    assert first.split()[0].lower() not in NO_VERB  # it says what the command does
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    for option in options:
        assert option.help, f"{path} {option.opts[0]} has no help"
        assert option.help[:1].isupper() or option.help.split()[0].rstrip(":,") in METHODS
        assert option.help.rstrip()[-1] in ".]"
    assert isinstance(command, click.Group) or any("--json" in option.opts for option in options)
    help_text = reglage(*path.split()[1:], "--help")
    assert help_text.exit_code == 0
    # What the command line does not know is one line of one form, whatever the command is.
    wrong = reglage(*path.split()[1:], "--nope")
    assert wrong.exit_code == 2
    assert re.fullmatch(rf"reglage: no such option '--nope'[^;]*; see `{path} --help`", wrong.stderr.strip())


@pytest.mark.parametrize("words", [("--set", "lr=3"), ("--set", "phases.tune.optimizer.num_train_epochs=3")])
def test_other_libraries_names_are_known(words: tuple[str, str]):
    said = reglage("check", QUICKSTART, *words).stderr
    assert ("here that is phases.*.optimizer.learning_rate" in said) or ("did you mean 'epochs'?" in said)


def test_check_remarks_on_what_a_run_would_stop_at(tiny_recipe: Path):
    columns = "datasets.home.columns={text: {type: string}, label: {type: string}}"
    good = json.loads(reglage("check", tiny_recipe, "--set", columns, "--json").stdout)
    assert (good["ok"], good["notes"]) == (True, [])
    slip = reglage("check", tiny_recipe, "--set", columns, "--set", "datasets.home.format.text=txt")
    assert slip.exit_code == 0
    assert (
        "note: datasets.home.format: reads 'txt', which its columns do not declare; did you mean 'text'?" in slip.stderr
    )
    here = "is no folder here"
    for model, said in {
        "{path: org/name}": f"note: model.path: 'org/name' {here}; a model of the hub needs revision",
        "{path: org/name, revision: main}": f"note: model.path: 'org/name' {here}; a model of the hub needs revision",
        "{path: 's3://bucket/model'}": f"note: model.path: 's3://bucket/model' {here}; give a folder, package:",
        f"{{path: org/name, revision: {'a' * 40}}}": "",
    }.items():
        remark = reglage("check", tiny_recipe, "--set", f"model={model}").stderr
        assert said in remark if said else here not in remark
    teacher = "phases.tune.scores={teacher: {model: {path: models/absent}}}"
    remark = reglage("check", tiny_recipe, "--set", "phases.tune.objective.kind=distillation", "--set", teacher).stderr
    assert f"note: phases[tune]: teacher.model.path: 'models/absent' {here}" in remark


def test_check_refuses_a_model_of_another_sense_than_the_rows(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text('{"model_type": "resnet"}')
    assert reglage("check", tiny_recipe, "--set", f"model={{path: {tmp_path}/net}}").exit_code == 0  # reads who knows
    (tmp_path / "net" / "preprocessor_config.json").write_text("{}")
    images = "datasets={home: {source: {kind: image_folder, path: x/}, format: {kind: labeled_image}}}"
    one = ("--set", images, "--set", "evaluations={home: {dataset: home, metrics: [{kind: accuracy}]}}")
    for model, rows, message in (
        ("net", (), "net is a 'resnet' model, which reads images, but the rows of dataset 'home' are text ('labeled')"),
        (
            "model",
            (*one, "--set", "select.by=home/accuracy"),
            "model is a 'bert' model, which reads text, but the rows",
        ),
    ):
        folder = tmp_path / model if model == "net" else tiny_recipe.parent / model
        result = reglage("check", tiny_recipe, "--set", f"model={{path: {folder}}}", *rows)
        (line,) = result.stderr.splitlines()
        assert (result.exit_code, message in line) == (2, True), line
        assert "give a model that transformers loads as AutoModelFor" in line
        fitting = reglage("check", tiny_recipe, "--set", f"model={{path: {tmp_path}/net}}", *rows)
        assert (fitting.exit_code == 0) == (model == "model")


def test_the_doctor_finds_what_is_wrong(tmp_path):
    good = json.loads(reglage("doctor", "--work", tmp_path, "--registry", tmp_path / "registry", "--json").stdout)
    assert {finding["what"] for finding in good["findings"]} >= {"versions", "processor", "disk", "registry", "prefect"}
    (tmp_path / "file").write_text("")
    result = reglage("doctor", "--work", tmp_path, "--registry", tmp_path / "file" / "registry", "--json")
    bad = {finding["what"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert (bad["registry"]["ok"], result.exit_code) == (False, 1)


def test_the_plan_counts_what_is_known_and_says_what_waits(tiny_recipe, tmp_path):
    before = json.loads(reglage("plan", tiny_recipe, "--work", tmp_path, "--json").stdout)
    assert [stage["state"] for stage in before["stages"]][:3] == ["to do", "to do", "waits"]
    assert before["seconds"] is None
    rows = (tiny_recipe.parent / "home.jsonl").read_text() + '{"text": "nor this", "label": "rare"}\n'
    (tmp_path / "home.jsonl").write_text(rows)
    source = ("--set", f"datasets.home.source.path={tmp_path}/home.jsonl")
    planned = reglage("plan", tiny_recipe, "--work", tmp_path, "--prepare", "--json", *source)
    (remark,) = planned.stderr.splitlines()
    assert remark.startswith("note: 1 label of dataset 'home' cannot be in each of train, validation, test")
    after = json.loads(planned.stdout)
    assert [stage["state"] for stage in after["stages"]][:5] == ["done"] * 4 + ["to do"]
    probe, tune = after["phases"]
    assert tune["trained"] == tune["parameters"]
    assert probe["trained"] == 4 * 32 + 4  # the head of four labels on 32 features
    assert tune["steps"] == -(-tune["rows"] // 32)
    assert after["seconds"] > 0


@pytest.mark.prefect
def test_a_whole_run_and_the_same_again(tiny_recipe: Path, tmp_path: Path):
    """In processes of their own: nothing but one JSON object on stdout, nothing left running."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "flows.command_line.main",
        "run",
        str(tiny_recipe),
        "--work",
        str(tmp_path / "work"),
        "--json",
    ]
    command += ["--set", f"publish.to.path={tmp_path / 'registry'}"]
    outs = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    first, second = (json.loads(out.stdout) for out in outs)
    assert "train tune" in outs[0].stderr
    assert (first["all_done_before"], second["all_done_before"]) == (False, True)
    assert first["version"]["version"] == second["version"]["version"] == 1
    assert {row["model"] for row in first["results"]} >= {"base", "probe", "tune"}
    assert {row["evaluation"] for row in first["results"]} == {"home", "away"}
    assert first["results"] == second["results"]
    assert Path(first["report"]).is_file()
    assert first["overhead_seconds"] == pytest.approx(first["wall_seconds"] - first["work_seconds"], abs=0.01)
    pulled = subprocess.run(
        [sys.executable, "-m", "flows.command_line.main", *first["pull"].split()[1:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert pulled.returncode == 0, pulled.stderr
    assert list((tmp_path / "tiny-router").rglob("model.safetensors"))
