"""What a version was made from, and by what: enough to make it again and to ask which rows are in it."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import JsonValue

import ftlib
from ftlib.evidence import Evidence
from ftlib.fingerprint import digest, file_digest, identify

_SOURCE = Path(ftlib.__file__).resolve().parents[1]


def lineage(evidence: Evidence, weights: str, warnings: Sequence[str] = ()) -> dict[str, JsonValue]:
    """Return a version's lineage as JSON. `weights` is the digest of the published tensors, `warnings` the merge's."""
    recipe, model, chosen = evidence.recipe, evidence.model, evidence.selection.chosen
    return {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_digest": digest(identify(recipe)),
        "base_model": {"name": model.name, "weights": model.weights, "tokenizer": model.tokenizer},
        "data": {
            name: {
                "files": [file.model_dump(exclude={"version"}) for file in evidence.raw[name].files],
                "raw": evidence.raw[name].content,
                "prepared": data.content,
                "rows": {split: facts.rows for split, facts in data.splits.items()},
                "dropped": dict(data.ledger.dropped),
                "leaked": data.leaked,
                "profile": data.profile.model_dump(mode="json"),
            }
            for name, data in sorted(evidence.prepared.items())
        },
        "weights": {
            "published": weights,
            "candidate": chosen.name,
            "start": chosen.start.weights if chosen.mixes else chosen.end.parent,
            "end": chosen.end.weights,
            "siblings": [sibling.weights for sibling in chosen.siblings],
            "alpha": chosen.alpha,
            "merge": chosen.merge.model_dump(mode="json") if chosen.merge else None,
            "warnings": list(warnings),
        },
        "code": code_facts(),
    }


def code_facts() -> dict[str, JsonValue]:
    """Return which code ran: our version and commit, the lock's digest, and the libraries that decide numbers."""
    lock = next((path for path in (_SOURCE / "requirements.lock", Path("requirements.lock")) if path.is_file()), None)
    return {
        "reglage": ftlib.__version__,
        "commit": _commit(),
        "lock_sha256": file_digest(lock) if lock else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "safetensors", "peft")},
    }


def _commit() -> str | None:
    """Return the checkout's commit, with -dirty if files differ from it; None for an installed package."""
    if not (_SOURCE / ".git").exists() or not shutil.which("git"):
        return None
    words = ["git", "-C", str(_SOURCE), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
