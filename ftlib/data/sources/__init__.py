"""Where rows come from: bytes to rows. Belongs to the ingest stage."""

from typing import Annotated

from pydantic import Field

from ftlib.data.sources.files import Files
from ftlib.data.sources.huggingface import HuggingFace
from ftlib.data.sources.installed_text import InstalledText

Source = Annotated[Files | HuggingFace | InstalledText, Field(discriminator="kind")]
