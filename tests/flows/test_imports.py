"""What a command does not need it does not load: most of the time of a short answer is imports."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "transformers", "ray", "peft", "datasets", "pandas", "scipy", "sklearn", "matplotlib", "pyarrow"}

REFUSED = """
import json, sys
from flows.command_line.main import main
from ftlib.errors import ReglageError
said = []
for words in json.loads(sys.argv[1]):
    try:
        main(words, standalone_mode=False)
    except ReglageError as error:
        said.append(str(error))
print(json.dumps([said, list(sys.modules)]))
"""

SKIPPING = """
import json, sys
from pathlib import Path
import flows.command_line.run, flows.command_line.terminal, flows.finetune, flows.retrain
from flows.command_line.quiet import log_to
log_to(Path("run.log"))
print(json.dumps([[], list(sys.modules)]))
"""


def run(folder: Path, script: str, commands: list[list[str]]) -> tuple[list[str], set[str]]:
    """Return what the commands were refused with, and the packages that the process has loaded."""
    out = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], check=True, capture_output=True, text=True, cwd=folder
    )
    said, modules = json.loads(out.stdout.splitlines()[-1])
    return said, {name.split(".")[0] for name in modules}


def test_a_retraining_that_finds_nothing_new_loads_no_torch(tmp_path: Path):
    _, loaded = run(tmp_path, SKIPPING, [])
    assert "prefect" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_a_refusal_loads_no_torch(tiny_recipe: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "registry").mkdir()
    ends = {"absent": "nowhere", "empty": "empty"}
    commands = {
        "registry": ["predict", "nope"],
        "absent": ["interpolate", ends["absent"], ends["empty"], "--alpha", "0.5", "--out", "out"],
        "empty": ["interpolate", ends["empty"], ends["empty"], "--alpha", "0.5", "--out", "out"],
        "evaluate": ["evaluate", ends["absent"], "--recipe", str(tiny_recipe)],
        "plan": ["plan", str(tiny_recipe), "--set", "model.path=nowhere"],
    }
    said, loaded = run(tmp_path, REFUSED, list(commands.values()))
    refusals = dict(zip(commands, said, strict=True))
    assert "there is no registry at" in refusals["registry"]
    assert "'nowhere' is no folder" in refusals["absent"]
    assert refusals["evaluate"] == refusals["absent"]
    assert "'empty' has no config.json" in refusals["empty"]
    assert "model folder 'nowhere' does not exist" in refusals["plan"]
    assert loaded.isdisjoint(HEAVY)
