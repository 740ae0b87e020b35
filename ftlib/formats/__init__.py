"""How rows become batches. Belongs to the preprocess stage; each format *yields* a batch kind."""

from typing import Annotated

from pydantic import Field

from ftlib.formats.labeled_text import LabeledText
from ftlib.formats.multi_label_text import MultiLabelText
from ftlib.formats.plain_text import PlainText
from ftlib.formats.prompt_completion import PromptCompletion
from ftlib.formats.question_answer import QuestionAnswer
from ftlib.formats.scored_text import ScoredText
from ftlib.formats.tagged_words import TaggedWords

Format = Annotated[
    LabeledText | MultiLabelText | ScoredText | TaggedWords | QuestionAnswer | PlainText | PromptCompletion,
    Field(discriminator="kind"),
]
