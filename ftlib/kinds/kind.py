"""The table of kinds of batch: everything that differs from kind to kind stands in one row.

A kind is what a format yields, an objective needs and a metric reads. Reading a recipe imports this module, so a row
holds words, and what is light; the head, which needs torch, is loaded when it is asked for. A new kind is a row here,
its files in `heads/`, `outcomes/` and `predictions/`, a word in `ftlib.config.BatchKind` and the column of its targets
in `ftlib.data.prepared`; docs/add/kind.md walks through it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, get_args

from ftlib.config import BatchKind
from ftlib.kinds import snippets
from ftlib.kinds.outcomes import (
    BoxOutcomes,
    ComparedOutcomes,
    CompletionOutcomes,
    DenoisedOutcomes,
    JudgedOutcomes,
    LabelOutcomes,
    MaskedOutcomes,
    MultiLabelOutcomes,
    Outcomes,
    PreferenceOutcomes,
    RetrievalOutcomes,
    ScoreOutcomes,
    SpanOutcomes,
    TaggedOutcomes,
    TokenOutcomes,
)
from ftlib.kinds.predictions import (
    BoxPredictor,
    CaptionPredictor,
    ChatPredictor,
    EntityPredictor,
    HiddenPredictor,
    ImageLabelPredictor,
    LabelPredictor,
    MultiLabelPredictor,
    Predictor,
    ScorePredictor,
    SpanPredictor,
    TextPredictor,
    VectorPredictor,
)

if TYPE_CHECKING:
    from ftlib.kinds.heads.base import Head


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of batch. No field has a default: a row that leaves one out cannot be imported."""

    name: BatchKind
    taught_as: BatchKind
    """The word that objectives need and metrics read: its own name, or that of the kind whose targets and answers it
    shares, as images with one label each are taught and told like texts."""

    head: Callable[[], Head]
    """Loads what is asked of a model in memory; needs torch."""
    outcomes: type[Outcomes]
    """The table of what a model said about a split's rows."""
    predictor: type[Predictor] | None
    """How a published model answers a user's text; None where it goes on from any text, as stock `generate` does."""

    least_labels: int
    """Labels that the training rows must name at least; 0 where targets are not labels of a closed set."""
    whole_tags: bool
    """Whether labels are IOB2 tags, so that a type has both of them though the rows may show one."""
    modality: Literal["text", "images"]
    """What a row is made from: a text, which the model's tokenizer cuts and batches fill up, or an image of one size,
    which its image processor makes."""
    language: bool
    """Whether a language model answers, which has no head of its own: it predicts the last `supervised` tokens of a
    row, or those that its targets mark, one by one. One model answers all such kinds that it can be loaded for; to a
    causal one a chat template may spell special tokens in their texts."""
    vocabulary: bool
    """Whether what is said of a token is any token of the model's own vocabulary, by a head that models of this class
    bring with their weights, often tied to the embedding: no labels ask for another, and an adapter copies none."""
    pools: bool
    """Whether a text's answer is one vector, the mean of what the model says of its tokens, without any head."""
    decodes: bool
    """Whether an encoder reads a row's source and a decoder writes its target: two sequences of tokens, and only models
    of both halves. Other language models read and write one sequence, and no encoder-decoder is asked for it."""
    packs: bool
    """Whether rows can lie one behind the other in one, told apart by `position_ids`: what a row is taught lies in its
    own tokens, and the model asks nothing of the row as a whole."""
    answers_by_token: bool
    """Whether there is an answer for every token, and none for the row as a whole."""
    reads_one_place: bool
    """Whether the head reads one place of a row, which padding and end tokens can move; others read every token."""
    pairs: bool
    """Whether a row is two texts, which `token_type_ids` tell apart."""
    prompts: bool
    """Whether a row begins with a prompt that the model can go on from."""
    names_problem: bool
    """Whether a model's config must say its `problem_type`: older heads of a single label say none."""
    outputs: int | None
    """Outputs that the head has whatever the labels are; None where they follow from the labels, or the class."""

    auto_class: str
    """The class of transformers that loads a model, as users write it."""
    architectures: tuple[str, ...]
    """How the names of such models' own classes end."""
    task_type: str | None
    """peft's TaskType, by name; None where it has none for such models, and wraps them as they are."""

    pipeline: str
    """The Hub's name of the task; it has none for several labels or a number."""
    title: str
    """Ours."""
    answers: str
    """What of its labels a model says; empty without labels."""
    snippet: str
    """Python of stock transformers that asks as training did (`ftlib.kinds.snippets`)."""
    note: str
    """What to know of the snippet's answer, in Markdown; may be empty."""

    @property
    def size_unit(self) -> str:
        """Return what a row's size counts: a text's tokens, or patches of 16 x 16 pixels of an image."""
        return "tokens" if self.modality == "text" else "patches"

    @property
    def diverges_by(self) -> Literal["row", "token"] | None:
        """Return per what an answer is one of several that exclude each other; None where there is no such answer."""
        return self.outcomes.diverges_by

    @property
    def has_places(self) -> bool:
        """Say whether targets are places in an image, which move with its pixels."""
        return self.outcomes.has_places

    @property
    def has_distribution(self) -> bool:
        """Say whether a model gives such answers as a distribution that one can be drawn from."""
        return self.outcomes.has_distribution

    @property
    def answers_untrained(self) -> bool:
        """Say whether the model that is found answers such rows already, since it brings its head, or needs none."""
        return self.vocabulary or self.pools

    @property
    def labeled(self) -> bool:
        """Say whether targets are of a closed set of labels, which training finds and evaluation keeps to."""
        return self.least_labels > 0


def _label_head() -> Head:
    from ftlib.kinds.heads.labels import LabelHead

    return LabelHead()


def _multi_label_head() -> Head:
    from ftlib.kinds.heads.multi_labels import MultiLabelHead

    return MultiLabelHead()


def _score_head() -> Head:
    from ftlib.kinds.heads.scores import ScoreHead

    return ScoreHead()


def _tag_head() -> Head:
    from ftlib.kinds.heads.tagged import TagHead

    return TagHead()


def _span_head() -> Head:
    from ftlib.kinds.heads.spans import SpanHead

    return SpanHead()


def _image_label_head() -> Head:
    from ftlib.kinds.heads.image_labels import ImageLabelHead

    return ImageLabelHead()


def _token_head() -> Head:
    from ftlib.kinds.heads.tokens import TokenHead

    return TokenHead()


def _completion_head() -> Head:
    from ftlib.kinds.heads.completions import CompletionHead

    return CompletionHead()


def _chat_head() -> Head:
    from ftlib.kinds.heads.chats import ChatHead

    return ChatHead()


def _masked_head() -> Head:
    from ftlib.kinds.heads.masked import MaskedHead

    return MaskedHead()


def _retrieval_head() -> Head:
    from ftlib.kinds.heads.retrieved import RetrievalHead

    return RetrievalHead()


def _text_to_text_head() -> Head:
    from ftlib.kinds.heads.text_to_text import TextToTextHead

    return TextToTextHead()


def _preference_head() -> Head:
    from ftlib.kinds.heads.preferences import PreferenceHead

    return PreferenceHead()


def _judged_head() -> Head:
    from ftlib.kinds.heads.judged import JudgedHead

    return JudgedHead()


def _captioned_image_head() -> Head:
    from ftlib.kinds.heads.captioned_images import CaptionedImageHead

    return CaptionedImageHead()


def _compared_head() -> Head:
    from ftlib.kinds.heads.compared import ComparedHead

    return ComparedHead()


def _box_head() -> Head:
    from ftlib.kinds.heads.boxes import BoxHead

    return BoxHead()


_ROWS = (
    Kind(
        name="labeled",
        taught_as="labeled",
        head=_label_head,
        outcomes=LabelOutcomes,
        predictor=LabelPredictor,
        least_labels=2,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=True,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForSequenceClassification",
        architectures=("ForSequenceClassification",),
        task_type="SEQ_CLS",
        pipeline="text-classification",
        title="Text classification",
        answers="one of them to any text",
        snippet=snippets.LABEL,
        note="",
    ),
    Kind(
        name="multi_labeled",
        taught_as="multi_labeled",
        head=_multi_label_head,
        outcomes=MultiLabelOutcomes,
        predictor=MultiLabelPredictor,
        least_labels=1,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=True,
        pairs=False,
        prompts=False,
        names_problem=True,
        outputs=None,
        auto_class="AutoModelForSequenceClassification",
        architectures=("ForSequenceClassification",),
        task_type="SEQ_CLS",
        pipeline="text-classification",
        title="Multi-label text classification",
        answers="any number of them to a text",
        snippet=snippets.LABELS,
        note="Each label has a probability of its own; one of 0.5 or more says that it applies.",
    ),
    Kind(
        name="scored",
        taught_as="scored",
        head=_score_head,
        outcomes=ScoreOutcomes,
        predictor=ScorePredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=True,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=1,
        auto_class="AutoModelForSequenceClassification",
        architectures=("ForSequenceClassification",),
        task_type="SEQ_CLS",
        pipeline="text-classification",
        title="Text regression",
        answers="",
        snippet=snippets.SCORE,
        note="The answer is a number, in the unit of the training data: `score`. The `LABEL_0` beside it means "
        'nothing, and without `function_to_apply="none"` the number would be squeezed between 0 and 1.',
    ),
    Kind(
        name="tagged",
        taught_as="tagged",
        head=_tag_head,
        outcomes=TaggedOutcomes,
        predictor=EntityPredictor,
        least_labels=2,
        whole_tags=True,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=True,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForTokenClassification",
        architectures=("ForTokenClassification",),
        task_type="TOKEN_CLS",
        pipeline="token-classification",
        title="Token classification",
        answers="one of them to every word",
        snippet=snippets.TAGS,
        note="Training tagged the first token of every word (IOB2), so words are joined to entities by their first "
        "token.",
    ),
    Kind(
        name="spans",
        taught_as="spans",
        head=_span_head,
        outcomes=SpanOutcomes,
        predictor=SpanPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=True,
        reads_one_place=False,
        pairs=True,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForQuestionAnswering",
        architectures=("ForQuestionAnswering",),
        task_type="QUESTION_ANS",
        pipeline="question-answering",
        title="Question answering",
        answers="",
        snippet=snippets.SPAN,
        note="",
    ),
    Kind(
        name="tokens",
        taught_as="tokens",
        head=_token_head,
        outcomes=TokenOutcomes,
        predictor=None,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=True,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        task_type="CAUSAL_LM",
        pipeline="text-generation",
        title="Text generation",
        answers="",
        snippet=snippets.TEXT,
        note="",
    ),
    Kind(
        name="completions",
        taught_as="completions",
        head=_completion_head,
        outcomes=CompletionOutcomes,
        predictor=TextPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=True,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=True,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        task_type="CAUSAL_LM",
        pipeline="text-generation",
        title="Text generation",
        answers="",
        snippet=snippets.COMPLETION,
        note="",
    ),
    Kind(
        name="chats",
        taught_as="completions",
        head=_chat_head,
        outcomes=CompletionOutcomes,
        predictor=ChatPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=True,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=True,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        task_type="CAUSAL_LM",
        pipeline="text-generation",
        title="Text generation",
        answers="",
        snippet=snippets.CHAT,
        note="The chat template that training rows were written by is part of the tokenizer's files.",
    ),
    Kind(
        name="text_to_text",
        taught_as="completions",
        head=_text_to_text_head,
        outcomes=CompletionOutcomes,
        predictor=TextPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=True,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=True,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForSeq2SeqLM",
        architectures=("ForConditionalGeneration", "MTModel", "EncoderDecoderModel"),
        task_type="SEQ_2_SEQ_LM",
        pipeline="text2text-generation",
        title="Text to text",
        answers="",
        snippet=snippets.TEXT_TO_TEXT,
        note="",
    ),
    Kind(
        name="labeled_images",
        taught_as="labeled",
        head=_image_label_head,
        outcomes=LabelOutcomes,
        predictor=ImageLabelPredictor,
        least_labels=2,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForImageClassification",
        architectures=("ForImageClassification",),
        task_type=None,
        pipeline="image-classification",
        title="Image classification",
        answers="one of them to any image",
        snippet=snippets.IMAGE,
        note="",
    ),
    Kind(
        name="masked",
        taught_as="masked",
        head=_masked_head,
        outcomes=MaskedOutcomes,
        predictor=HiddenPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=True,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForMaskedLM",
        architectures=("ForMaskedLM",),
        task_type=None,
        pipeline="fill-mask",
        title="Masked language modelling",
        answers="",
        snippet=snippets.HIDDEN,
        note="",
    ),
    Kind(
        name="retrieved",
        taught_as="retrieved",
        head=_retrieval_head,
        outcomes=RetrievalOutcomes,
        predictor=VectorPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=True,
        decodes=False,
        packs=False,
        answers_by_token=True,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModel",
        architectures=("Model",),
        task_type="FEATURE_EXTRACTION",
        pipeline="sentence-similarity",
        title="Sentence embeddings",
        answers="",
        snippet=snippets.VECTOR,
        note="The folder has the files of sentence-transformers too: `SentenceTransformer(folder).encode` says the "
        "same.",
    ),
    Kind(
        name="preferences",
        taught_as="preferences",
        head=_preference_head,
        outcomes=PreferenceOutcomes,
        predictor=TextPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        task_type="CAUSAL_LM",
        pipeline="text-generation",
        title="Text generation",
        answers="",
        snippet=snippets.COMPLETION,
        note="",
    ),
    Kind(
        name="judged",
        taught_as="judged",
        head=_judged_head,
        outcomes=JudgedOutcomes,
        predictor=TextPredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=True,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForCausalLM",
        architectures=("ForCausalLM", "LMHeadModel"),
        task_type="CAUSAL_LM",
        pipeline="text-generation",
        title="Text generation",
        answers="",
        snippet=snippets.COMPLETION,
        note="",
    ),
    Kind(
        name="captioned_images",
        taught_as="captioned_images",
        head=_captioned_image_head,
        outcomes=DenoisedOutcomes,
        predictor=CaptionPredictor,
        least_labels=0,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=True,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="UNet2DConditionModel",
        architectures=("Denoiser",),
        task_type=None,
        pipeline="text-to-image",
        title="Text to image",
        answers="",
        snippet=snippets.DRAWN,
        note="The first noise of an image is drawn by a generator of the CPU from its seed: the same seed, steps and "
        "guidance draw the same image.",
    ),
    Kind(
        name="compared",
        taught_as="compared",
        head=_compared_head,
        outcomes=ComparedOutcomes,
        predictor=ScorePredictor,
        least_labels=0,
        whole_tags=False,
        modality="text",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=True,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=1,
        auto_class="AutoModelForSequenceClassification",
        architectures=("ForSequenceClassification",),
        task_type="SEQ_CLS",
        pipeline="text-classification",
        title="Reward model",
        answers="",
        snippet=snippets.REWARD,
        note="The answer is a score without a unit: of two answers to one prompt, the one with the higher score is "
        "preferred, with the probability sigmoid(difference). Scores of different prompts are not comparable.",
    ),
    Kind(
        name="boxed_images",
        taught_as="boxed_images",
        head=_box_head,
        outcomes=BoxOutcomes,
        predictor=BoxPredictor,
        least_labels=1,
        whole_tags=False,
        modality="images",
        language=False,
        vocabulary=False,
        pools=False,
        decodes=False,
        packs=False,
        answers_by_token=False,
        reads_one_place=False,
        pairs=False,
        prompts=False,
        names_problem=False,
        outputs=None,
        auto_class="AutoModelForObjectDetection",
        architectures=("ForObjectDetection",),
        task_type=None,
        pipeline="object-detection",
        title="Object detection",
        answers="any number of them to an image, each in a box",
        snippet=snippets.BOXES,
        note="Boxes are in pixels of the image. Each has a score of its own; no suppression of overlaps is needed.",
    ),
)

KINDS: Mapping[BatchKind, Kind] = MappingProxyType({kind.name: kind for kind in _ROWS})
"""Every kind of batch, by its name. Of several kinds that a class of transformers answers, the plainest comes first."""

if [*KINDS] != [*get_args(BatchKind)] or any(kind.outcomes.kind != kind.taught_as for kind in _ROWS):
    raise TypeError(f"ftlib.config.BatchKind names {get_args(BatchKind)}, the table of kinds has {(*KINDS,)}")


def one_model(*kinds: BatchKind) -> bool:
    """Say whether one model, with one head, answers batches of all these kinds."""
    one = len({KINDS[kind].auto_class for kind in kinds}) < 2
    return len({*kinds}) < 2 or (one and all(KINDS[kind].language for kind in kinds))
