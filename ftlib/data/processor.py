"""What makes a model's inputs of raw values: a tokenizer, an image processor, or both."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What formats use of a transformers tokenizer."""

    eos_token_id: Any

    def __call__(self, text: Any = None, **options: Any) -> Any:
        """Return `input_ids`, a list of ids for every text; of every `text_target` where that is given instead."""
        ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many tokens it puts around a text, or a pair of them."""
        ...


class ImageProcessor(Protocol):
    """What formats use of a transformers image processor."""

    image_mean: Any
    image_std: Any
    rescale_factor: Any

    def __call__(self, images: Any, **options: Any) -> Any:
        """Return `pixel_values`, one array of channels x height x width for every image."""
        ...


@dataclass(frozen=True)
class Processor:
    """A model's own, each part loaded when a format first asks for it: a model of pixels alone has no tokenizer."""

    load_tokenizer: Callable[[], Tokenizer]
    load_image_processor: Callable[[], ImageProcessor]
    find_decoder_start: Callable[[], int]

    @classmethod
    def of(cls, tokenizer: Any = None, image_processor: Any = None, decoder_start: int = 0) -> Processor:
        """Return the processor of parts that are loaded."""
        return cls(lambda: tokenizer, lambda: image_processor, lambda: decoder_start)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises ModelError where the model has none that can be loaded."""
        return self.load_tokenizer()

    @functools.cached_property
    def image_processor(self) -> ImageProcessor:
        """The image processor. Raises ModelError where the model has none that can be loaded."""
        return self.load_image_processor()

    @functools.cached_property
    def decoder_start(self) -> int:
        """The token that an encoder-decoder's decoder begins with. Raises ModelError where the model names none."""
        return self.find_decoder_start()
