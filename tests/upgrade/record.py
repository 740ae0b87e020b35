"""Makes what tests/upgrade/ keeps, with the code of the commit whose checkout runs it.

    git worktree add ../old fe4a957        # and an environment in which its `reglage` runs
    cd EMPTY && ../old/.venv/bin/python HERE/record.py

The current folder then holds: model/ and rows/, two recipes, registry/ (router@1 and @2 with an alias that moved
three times and a ledger of files; adapted@1, signed, with its adapter), key.pub, what each version answers to some
texts, and work/. What the tests read of it is packed:

    alias pack='tar --sort=name --owner=0 --group=0 --mtime=@0 -cJf'
    pack HERE/fe4a957.tar.xz model rows *.yaml *.json key.pub registry
    pack HERE/c56ff10.tar.xz --exclude={'*.lock','*.svg','*.png','report.*'} work/stages work/outcomes
"""

import json
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ftlib.testing import tiny_classifier, tiny_rows, write_jsonl

ROUTER = """
name: router
model: {path: model}
datasets:
  tickets:
    source: {kind: files, path: rows/}
    key: day
    format: {kind: labeled_text, text: text, label: label, max_tokens: 24}
    split: {validation: 0.2, test: 0.2}
phases:
  - name: probe
    dataset: tickets
    objective: {kind: classification}
    tuning: {kind: linear_probe}
    precision: fp32
  - name: tune
    dataset: tickets
    objective: {kind: classification}
    tuning: {kind: full}
    optimizer: {epochs: 3, learning_rate: 1.0e-2, batch_size: 16}
    precision: fp32
evaluations:
  tickets: {dataset: tickets, metrics: [{kind: accuracy}, {kind: log_loss}], resamples: 100}
interpolation: {kind: wise_ft, alphas: [0.5]}
select: {by: tickets/log_loss}
publish: {name: router, to: {kind: folder, path: registry}}
retrain: {min_fresh_rows: 20, margin: 1}
compute: {workers: 0, threads: 1}
"""
ADAPTED = (
    ROUTER.replace("name: router", "name: adapted")
    .replace("tuning: {kind: full}", "tuning: {kind: lora, rank: 2, alpha: 4}")
    .replace("publish: {name: adapted,", "publish: {name: adapted, adapter: true, sign_with: key,")
)

COMMAND = Path(sys.executable).parent / "reglage"
VERSIONS = ("router@1", "router@2", "adapted@1")
SMALL_PLOTS = """
import runpy, sys
import matplotlib
from matplotlib.figure import Figure
matplotlib.rcParams["svg.fonttype"] = "none"
savefig = Figure.savefig
Figure.savefig = lambda figure, *place, **how: savefig(figure, *place, **{**how, "dpi": 8})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def reglage(*words: str) -> None:
    """Run the command of this environment here. Its plots have few dots: every version carries them."""
    subprocess.run([sys.executable, "-c", SMALL_PLOTS, COMMAND, *words], check=True)


def answers(version: str) -> list[dict[str, object]]:
    """Return what a version answers to some texts."""
    lines = "".join(f"{row['text']}\n" for row in tiny_rows(6, seed=3))
    done = subprocess.run([COMMAND, "predict", version, "--json"], input=lines, check=True, stdout=-1, text=True)
    return json.loads(done.stdout)["predictions"]


def base_model(folder: Path) -> None:
    """Write an encoder of 5,000 weights, so large that its answers differ from text to text."""
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_classifier(folder, hidden=8))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    model.save_pretrained(folder)


def main() -> None:
    """Make the world and run the recipes in it."""
    base_model(Path("model"))
    rows = tiny_rows(140)
    write_jsonl(Path("rows/monday.jsonl"), rows[:80])
    Path("router.yaml").write_text(ROUTER.lstrip())
    Path("adapted.yaml").write_text(ADAPTED.lstrip())
    key = ec.generate_private_key(ec.SECP256R1())
    Path("key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    Path("key.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    reglage("retrain", "router.yaml")
    write_jsonl(Path("rows/tuesday.jsonl"), rows[80:110])
    reglage("retrain", "router.yaml")
    reglage("registry", "rollback", "router", "--why", "a drill", "--who", "record.py")
    reglage("run", "adapted.yaml")
    reglage("registry", "promote", "adapted@1", "--why", "the first", "--who", "record.py")
    Path("answers.json").write_text(json.dumps({name: answers(name) for name in VERSIONS}, indent=1))
    Path("key").unlink()


if __name__ == "__main__":
    main()
