"""How a checkpoint's folder is laid out is written in one place; its form says what its records and digests hold."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import ftlib
from ftlib.errors import ModelError
from ftlib.models.checkpoint import Base, Checkpoint

SOURCES = Path(ftlib.__file__).parents[1]
KNOWS = {"ftlib/models/checkpoint.py", "ftlib/testing/recipes.py"}
"""The one place, and the tests' own folders, which are no checkpoints."""
WRITES_OUT = re.compile(r"""/ *f?["'](model|adapter)["'/]""")


def test_nobody_else_writes_a_checkpoints_folder_out():
    files = [path for part in ("ftlib", "tasks", "flows") for path in (SOURCES / part).rglob("*.py")]
    found = {
        f"{name}:{number}"
        for path in files
        if (name := path.relative_to(SOURCES).as_posix()) not in KNOWS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if WRITES_OUT.search(line)
    }
    assert len(files) > 200
    assert not found


def checkpoint(**fields: object) -> Checkpoint:
    facts = {"weights": "w", "parent": None, "tokenizer": "t", "config": "c", "phase": "tune", "fresh_head": False}
    return Checkpoint.model_validate({**facts, "labels": ["a"], "parameters": 2, "trained_parameters": 1, **fields})


def test_a_record_from_before_there_were_forms_is_dense_and_keeps_its_digest(tmp_path: Path):
    old = json.loads(checkpoint().model_dump_json())
    del old["form"], old["base"]
    read = Checkpoint.model_validate(old)
    assert (read.form, read.base) == ("dense", None)
    assert read.digest() == hashlib.sha256(b'["w","t","c",["a"]]').hexdigest()


def test_an_adapter_has_no_file_of_every_tensor(tmp_path: Path):
    adapter = checkpoint(uri=str(tmp_path), form="adapter", base=Base(name="owner/base@1", weights="b"))
    with pytest.raises(ModelError, match=r"'tune' is an adapter over owner/base@1 and has no file .*keep: merged"):
        _ = adapter.weights_folder
    assert checkpoint(uri=str(tmp_path)).weights_folder == tmp_path / "model" == adapter.folder == adapter.adapter
    assert checkpoint(uri=str(tmp_path)).adapter is None
