"""transformers without its reports and bars: what they say is returned or raised, not printed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import transformers


@contextmanager
def quiet() -> Generator[None]:
    """Keep transformers' load report and bars off the terminal while the block runs."""
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()
