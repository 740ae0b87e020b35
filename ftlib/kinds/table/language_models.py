"""Kinds that a language model answers, which has no head of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.kinds import snippets
from ftlib.kinds.outcomes import CompletionOutcomes, JudgedOutcomes, PreferenceOutcomes, TokenOutcomes
from ftlib.kinds.predictions import ChatPredictor, TextPredictor
from ftlib.kinds.table.row import Kind

if TYPE_CHECKING:
    from ftlib.kinds.heads.base import Head


def _token_head() -> Head:
    from ftlib.kinds.heads.tokens import TokenHead

    return TokenHead()


def _completion_head() -> Head:
    from ftlib.kinds.heads.completions import CompletionHead

    return CompletionHead()


def _chat_head() -> Head:
    from ftlib.kinds.heads.chats import ChatHead

    return ChatHead()


def _text_to_text_head() -> Head:
    from ftlib.kinds.heads.text_to_text import TextToTextHead

    return TextToTextHead()


def _preference_head() -> Head:
    from ftlib.kinds.heads.preferences import PreferenceHead

    return PreferenceHead()


def _judged_head() -> Head:
    from ftlib.kinds.heads.judged import JudgedHead

    return JudgedHead()


ROWS = (
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
)
