"""What is known of the package diffusers without loading it: files and classes by name, and how it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlib.errors import RecipeError, first_line

PACKAGE, EXTRA = "diffusers", "diffusion"
"""What it is called, and the extra that brings it."""
INDEX = "model_index.json"
"""The file of a pipeline's folder that names its parts."""
LORA = "pytorch_lora_weights.safetensors"
"""What it calls the file of an adapter, and looks for."""
ONE_MODEL = "reglage_denoiser"
"""The `model_type` of the folder of one model that a pipeline is made into."""


def is_pipeline(folder: Path) -> bool:
    """Say whether a folder is a pipeline of diffusers."""
    return (folder / INDEX).is_file()


def import_diffusers() -> Any:
    """Return the package. Raises RecipeError where it is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise RecipeError(
            f"pipelines of images need the package {PACKAGE!r}, which cannot be imported ({first_line(error)}); pip "
            f"install 'reglage[{EXTRA}]'"
        ) from error
    return diffusers
