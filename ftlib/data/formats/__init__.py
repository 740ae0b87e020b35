"""How rows become batches. Belongs to the preprocess stage; each format *yields* a batch kind."""

from typing import Annotated

from ftlib.data.formats.boxed_image import BoxedImage
from ftlib.data.formats.captioned_image import CaptionedImage
from ftlib.data.formats.chat import Chat
from ftlib.data.formats.compared_texts import ComparedTexts
from ftlib.data.formats.labeled_image import LabeledImage
from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.masked_text import MaskedText
from ftlib.data.formats.multi_label_text import MultiLabelText
from ftlib.data.formats.plain_text import PlainText
from ftlib.data.formats.preference import Preference
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.formats.question_answer import QuestionAnswer
from ftlib.data.formats.retrieval_pairs import RetrievalPairs
from ftlib.data.formats.scored_text import ScoredText
from ftlib.data.formats.tagged_words import TaggedWords
from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.formats.thumb import Thumb
from ftlib.extensions import Open

Format = Annotated[
    LabeledText
    | MultiLabelText
    | ScoredText
    | TaggedWords
    | QuestionAnswer
    | PlainText
    | MaskedText
    | RetrievalPairs
    | ComparedTexts
    | PromptCompletion
    | Chat
    | TextToText
    | LabeledImage
    | Preference
    | Thumb
    | CaptionedImage
    | BoxedImage,
    Open("reglage.format"),
]
