"""Kinds whose texts an encoder reads, and a head answers: labels, numbers, tags, spans, hidden words, vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.kinds import snippets
from ftlib.kinds.outcomes import (
    ComparedOutcomes,
    LabelOutcomes,
    MaskedOutcomes,
    MultiLabelOutcomes,
    RetrievalOutcomes,
    ScoreOutcomes,
    SpanOutcomes,
    TaggedOutcomes,
)
from ftlib.kinds.predictions import (
    EntityPredictor,
    HiddenPredictor,
    LabelPredictor,
    MultiLabelPredictor,
    ScorePredictor,
    SpanPredictor,
    VectorPredictor,
)
from ftlib.kinds.table.row import Kind

if TYPE_CHECKING:
    from ftlib.kinds.heads.base import Head


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


def _masked_head() -> Head:
    from ftlib.kinds.heads.masked import MaskedHead

    return MaskedHead()


def _retrieval_head() -> Head:
    from ftlib.kinds.heads.retrieved import RetrievalHead

    return RetrievalHead()


def _compared_head() -> Head:
    from ftlib.kinds.heads.compared import ComparedHead

    return ComparedHead()


ROWS = (
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
)
