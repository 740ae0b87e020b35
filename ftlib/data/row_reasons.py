"""Why a row is bad, passed over or dropped, by name; and what to do about it, for the reasons that say little."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from ftlib.data.images.decoding import ImageReason

BadReason = Literal[
    ImageReason,
    "invalid_utf8",
    "broken_json",
    "not_an_object",
    "not_finite",
    "lone_surrogate",
    "nested_too_deep",
    "broken_csv",
    "wrong_field_count",
    "repeated_header",
    "binary_value",
    "unreadable_value",
    "reserved_column",
    "no_values",
    "missing_value",
    "wrong_type",
    "not_allowed",
    "missing_key",
    "odd_updated",
    "odd_deleted",
    "odd_thumb",
    "odd_id",
    "odd_annotation",
    "unknown_category",
    "unknown_image",
    "personal_data",
]

PassReason = Literal[
    "joined",
    "deleted",
    "forgotten",
    "tombstone",
    "no_prompt",
    "no_answer",
    "no_correction",
    "no_thumb",
    "no_feedback",
    "same_answer",
    "contradictory_thumbs",
    "no_counterpart",
    "shadow",
]

DropReason = Literal[
    "missing_text",
    "empty_text",
    "text_not_a_string",
    "image_as_text",
    "missing_label",
    "empty_label",
    "label_not_a_name",
    "missing_completion",
    "empty_completion",
    "completion_not_a_string",
    "missing_words",
    "words_not_strings",
    "missing_tags",
    "tags_not_strings",
    "words_and_tags_differ",
    "tag_not_iob2",
    "labels_not_a_list",
    "list_as_text",
    "missing_score",
    "score_not_a_number",
    "missing_question",
    "missing_context",
    "missing_answer",
    "unanswerable",
    "odd_answer",
    "answer_not_in_context",
    "missing_image",
    "image_not_ingested",
    "missing_boxes",
    "boxes_not_a_list",
    "odd_box",
    "box_not_numbers",
    "box_without_area",
    "box_outside",
    "too_many_boxes",
    "missing_caption",
    "caption_not_a_string",
    "empty_caption",
    "missing_messages",
    "messages_not_a_list",
    "turn_not_an_object",
    "unknown_role",
    "empty_content",
    "content_not_a_text",
    "image_in_chat",
    "no_answer",
    "no_question",
    "several_system_turns",
    "system_not_first",
    "assistant_first",
    "tools_not_a_list",
    "template_refuses",
    "turn_not_rendered",
    "turns_not_told_apart",
    "too_long",
    "no_word_to_hide",
    "prompt_ends_with_answer",
    "answer_to_another_prompt",
    "equal_answers",
    "prompt_too_long",
    "answer_too_long",
    "missing_thumb",
    "thumb_not_yes_or_no",
    "odd_margin",
]


REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "text_not_a_string": "the text column holds numbers, lists or objects; write text",
        "image_as_text": "the text column holds images (data:image/...); take such rows out, or read images from a "
        "column of their own by format labeled_image",
        "caption_not_a_string": "the caption column holds numbers, lists or objects; write text",
        "label_not_a_name": "a label is a text, a whole number, true or false; format multi_label_text reads lists of "
        "labels, scored_text numbers with a fraction, and an object's field needs a column of its own",
        "labels_not_a_list": "labels are a list; for a text such as 'billing; bug' set the format's separator",
        "list_as_text": "the cells are texts that spell lists, since csv has none: write lists in jsonl or parquet, or "
        "for format multi_label_text 'billing; bug' with the separator ';'",
        "score_not_a_number": "a score is a finite number, with a point for its fraction",
        "words_not_strings": "words are a list of texts, which jsonl and parquet hold and csv does not",
        "tags_not_strings": "tags are a list of texts, which jsonl and parquet hold and csv does not; by name, not by "
        "number",
        "words_and_tags_differ": "a row has one tag for each of its words",
        "tag_not_iob2": "tags are O, B-TYPE and I-TYPE (IOB2); of IOBES or BIOES write S- as B- and E- as I-, of BILOU "
        "U- as B- and L- as I-, and B_TYPE or bare types with B- and I-",
        "odd_answer": "answers are text and answer_start, as in SQuAD; csv has no objects: write jsonl or parquet",
        "answer_not_in_context": "answer_start counts the characters of the context before the answer",
        "unanswerable": "unanswerable: keep teaches a model to say so",
        "completion_not_a_string": "the completion column holds numbers, lists or objects; write text",
        "messages_not_a_list": "a chat is a list of turns, in csv as JSON; an instruction and an output are "
        "columns of their own",
        "turn_not_an_object": "a turn is an object: role and content, or from and value",
        "unknown_role": "roles are system, user, assistant and tool, or what the format's roles call so",
        "empty_content": "a turn says something, or calls tools; take it out",
        "content_not_a_text": "what a turn says is a text, or a list of parts of text",
        "image_in_chat": "a chat holds texts alone; take turns with images, audio or video out",
        "no_answer": "no turn is the assistant's, so there is nothing to learn: name its role in the format's roles",
        "no_question": "no turn is the user's or a tool's, so nothing is asked: name its role in the format's roles",
        "several_system_turns": "a chat has one system turn at most; join them",
        "system_not_first": "the system turn stands before all others",
        "assistant_first": "a chat begins with the user's turn, after that of the system",
        "tools_not_a_list": "tools are a list of JSON schemas",
        "template_refuses": "the chat template does not write such chats; change the rows, or give format.template",
        "turn_not_rendered": "the chat template writes nothing of such a turn; join it to another, or give "
        "format.template",
        "turns_not_told_apart": "the chat template writes earlier turns otherwise once others follow: give "
        "format.template one with {% generation %} marks, or learn chats of one answer",
        "too_long": "not even the first answer fits; raise format.max_tokens",
        "no_word_to_hide": "the tokenizer knows no word of such a text",
        "prompt_ends_with_answer": "a prompt ends with a turn of the user, or of a tool; answers have columns of "
        "their own",
        "answer_to_another_prompt": "an answer that is a list of turns begins with the prompt's, or has one turn alone",
        "equal_answers": "a pair of two equal answers prefers neither; leave it out",
        "prompt_too_long": "a prompt leaves no room for an answer; raise format.max_tokens, or shorten the prompt",
        "answer_too_long": "an answer is never cut: raise format.max_tokens, or shorten prompt or answer",
        "thumb_not_yes_or_no": "a thumb is true or false, 1 or 0, yes or no, up or down",
        "odd_margin": "a margin is a finite number from 0 on; where the other text is better, swap the two",
        "image_not_ingested": "the image column holds no images: name it in the source's images, which makes images of "
        "paths, bytes and base64",
    }
)
"""What to do about rows that a format has no use for, by the reason; for the reasons that say little by themselves."""


def reasons(dropped: Mapping[str, int]) -> str:
    """Write how many rows were dropped for which reasons, the most frequent first: `30 tag_not_iob2, 2 duplicate`."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items(), key=lambda d: -d[1]))


def remedies(dropped: Iterable[str]) -> list[str]:
    """Return what to do about rows dropped for these reasons; with their names if there are several."""
    remediable = [reason for reason in dropped if reason in REMEDIES]
    return [REMEDIES[reason] if len(remediable) == 1 else f"{reason}: {REMEDIES[reason]}" for reason in remediable]
