"""What the light half may load: packages of others that imports and commands pull in, against their lists.

    python infra/imports.py            compare with infra/imports.toml; exit code 1 if something grew
    python infra/imports.py --write    write what is loaded now to it

A package that a list has and nothing loads is no fault: another machine may need it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTS = Path(__file__).with_suffix(".toml")
OURS = frozenset({"flows", "ftlib", "tasks"})

_DONE_BEFORE = """
import subprocess, sys, tempfile
with tempfile.TemporaryDirectory() as folder:
    made = "import pathlib, sys; from ftlib.testing import tiny_recipe; tiny_recipe(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", made, folder], check=True, stdout=subprocess.DEVNULL)
    again = ["run", f"{folder}/tiny.yaml", "--work", f"{folder}/work"]
    subprocess.run([sys.executable, "-m", "flows.command_line.main", *again], check=True, stdout=subprocess.DEVNULL)
    from flows.command_line.main import main
    main(again, standalone_mode=False)
"""
RUNS = {
    "recipe": "import pkgutil, importlib, ftlib.recipe\n"
    "for found in pkgutil.walk_packages(ftlib.recipe.__path__, 'ftlib.recipe.'): importlib.import_module(found.name)",
    "finetune": "import flows.finetune",
    "help": "from flows.command_line.main import main\nmain(['--help'], standalone_mode=False)",
    "check": "from flows.command_line.main import main\n"
    "main(['check', 'recipes/quickstart.yaml'], standalone_mode=False)",
    "done_before": _DONE_BEFORE,
}
"""By the list's name, the program that is run."""

_PRINT = "\nimport json, sys\nprint('\\n' + json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
_LINE = re.compile(r"import time:[^|]*\|[^|]*\|( *)(\S+)$")


def loaded(program: str) -> set[str]:
    """Return the packages of others, by their modules' first names, that a fresh Python has loaded after a program."""
    found = set(json.loads(_run(program + _PRINT).stdout.splitlines()[-1]))
    before = set(json.loads(_run(_PRINT).stdout.splitlines()[-1]))  # what site and editable installs load anyway
    installed = packages_distributions().keys()
    return {name for name in found - before - OURS - sys.stdlib_module_names if name in installed and name[0] != "_"}


def who_loads(program: str, package: str) -> str:
    """Say which modules a package was loaded through, the first of them ours: `ftlib.a, through x and y`."""
    lines = [match for line in _run(program, "-X", "importtime").stderr.splitlines() if (match := _LINE.match(line))]
    # A module's line stands behind those of what it imported, which are indented more.
    depth, chain = None, list[str]()
    for match in lines:
        here = len(match[1])
        if depth is None and match[2].split(".")[0] == package:
            depth = here
        elif depth is not None and here < depth:
            depth = here
            chain.append(match[2])
            if match[2].split(".")[0] in OURS:
                break
    if not chain:
        return "who imports it is not known"
    ours, through = chain[-1], list(dict.fromkeys(name.split(".")[0] for name in chain[:-1] if name[:1] != "_"))
    passed = [name for name in through if name != package and name not in sys.stdlib_module_names]
    return f"imported by {ours}" + (f", through {' and '.join(reversed(passed))}" if passed else "")


def grown() -> Iterator[str]:
    """Yield a line for every package that a list lacks."""
    allowed = tomllib.loads(LISTS.read_text(encoding="utf-8"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        packages = [*pool.map(loaded, RUNS.values())]
    for (name, program), found in zip(RUNS.items(), packages, strict=True):
        for package in sorted(found - set(allowed[name])):
            yield (
                f"{name}: loads {package}, {who_loads(program, package)}; import it inside the call that needs it, or "
                f"add it to the list `{name}` of {LISTS.relative_to(ROOT)} (python infra/imports.py --write)"
            )


def write() -> None:
    """Write the lists anew."""
    head = "# Packages of others that may be loaded: infra/imports.py compares them, and says what is run for each.\n"
    lists = [f"{name} = {json.dumps(sorted(loaded(program)), indent=2)}\n" for name, program in RUNS.items()]
    LISTS.write_text(head + "".join(lists), encoding="utf-8")


def _run(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *options, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(f"this does not run: {program!r}: {done.stderr.strip().splitlines()[-1]}")
    return done


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    elif faults := list(grown()):
        sys.exit("\n".join(faults))
