"""How rows become batches. Belongs to the preprocess stage; each format *yields* a batch kind."""

from typing import Annotated

from pydantic import Field

from ftlib.formats.labeled_text import LabeledText
from ftlib.formats.plain_text import PlainText

Format = Annotated[LabeledText | PlainText, Field(discriminator="kind")]
