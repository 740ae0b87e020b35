"""`reglage serve --gpu` where there are fewer GPUs than replicas: it says so before anything is pulled or started."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from flows.command_line.main import main


@pytest.mark.parametrize(("there", "said"), [(0, "sees no GPUs here"), (1, "sees 1 GPU here")])
def test_more_replicas_than_gpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    words = ["serve", "mail@champion", "--registry", str(tmp_path / "none"), "--gpu", "--replicas", "2"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert "--gpu: got 2 replicas" in result.output
    assert said in result.output
