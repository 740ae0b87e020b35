"""Tiny models and rows, shipped so that users test their own formats, tunings and metrics with what tests the product.

The models are made from a config: random weights, a real tokenizer, milliseconds to train, folders that stock
transformers loads. The rows are learnable: each label has words of its own among words that all labels share.
"""

from ftlib.testing.checkpoints import tiny_adapter, tiny_checkpoint
from ftlib.testing.detectors import BOXED_SIZE, tiny_boxed_cells, tiny_boxed_rows, tiny_detector
from ftlib.testing.models import (
    IMAGE_SIZE,
    TINY_TEMPLATE,
    ImageFamily,
    TextFamily,
    tiny_causal_lm,
    tiny_chat_lm,
    tiny_chat_tokenizer,
    tiny_classifier,
    tiny_image_classifier,
    tiny_lm_tokenizer,
    tiny_text_to_text,
    tiny_tokenizer,
)
from ftlib.testing.pipelines import tiny_captioned_rows, tiny_captioned_split, tiny_pipeline
from ftlib.testing.prepared import tiny_prepared, tiny_prepared_as, tiny_row_id
from ftlib.testing.recipes import tiny_recipe
from ftlib.testing.rows import (
    LABELS,
    tiny_chats,
    tiny_comparisons,
    tiny_image_rows,
    tiny_multi_label_rows,
    tiny_pairs,
    tiny_preferences,
    tiny_prompts,
    tiny_questions,
    tiny_rows,
    tiny_scored_rows,
    tiny_sources,
    tiny_tagged_rows,
    tiny_thumbs,
    write_jsonl,
)

__all__ = [
    "BOXED_SIZE",
    "IMAGE_SIZE",
    "LABELS",
    "TINY_TEMPLATE",
    "ImageFamily",
    "TextFamily",
    "tiny_adapter",
    "tiny_boxed_cells",
    "tiny_boxed_rows",
    "tiny_captioned_rows",
    "tiny_captioned_split",
    "tiny_causal_lm",
    "tiny_chat_lm",
    "tiny_chat_tokenizer",
    "tiny_chats",
    "tiny_checkpoint",
    "tiny_classifier",
    "tiny_comparisons",
    "tiny_detector",
    "tiny_image_classifier",
    "tiny_image_rows",
    "tiny_lm_tokenizer",
    "tiny_multi_label_rows",
    "tiny_pairs",
    "tiny_pipeline",
    "tiny_preferences",
    "tiny_prepared",
    "tiny_prepared_as",
    "tiny_prompts",
    "tiny_questions",
    "tiny_recipe",
    "tiny_row_id",
    "tiny_rows",
    "tiny_scored_rows",
    "tiny_sources",
    "tiny_tagged_rows",
    "tiny_text_to_text",
    "tiny_thumbs",
    "tiny_tokenizer",
    "write_jsonl",
]
