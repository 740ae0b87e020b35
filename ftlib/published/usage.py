"""How a published model is asked with stock libraries: the part of its card that people copy."""

from __future__ import annotations

import json

from ftlib.config import BatchKind
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.models.checkpoint import FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.wording import block, code

_FOLDER = "path/to/this/folder"

_CLASSES: dict[BatchKind, str] = {
    "labeled": "AutoModelForSequenceClassification",
    "multi_labeled": "AutoModelForSequenceClassification",
    "scored": "AutoModelForSequenceClassification",
    "tagged": "AutoModelForTokenClassification",
    "spans": "AutoModelForQuestionAnswering",
    "tokens": "AutoModelForCausalLM",
    "completions": "AutoModelForCausalLM",
}

_PIPELINES: dict[BatchKind, tuple[str, str]] = {
    "labeled": (
        'model = pipeline("text-classification", model="{folder}")\nprint(model("some text"))',
        "",
    ),
    "multi_labeled": (
        'model = pipeline("text-classification", model="{folder}", top_k=None)\nprint(model("some text"))',
        "Each label has a probability of its own; one of 0.5 or more says that it applies.",
    ),
    "scored": (
        'model = pipeline("text-classification", model="{folder}", function_to_apply="none")\n'
        'print(model("some text")[0]["score"])',
        "The answer is a number, in the unit of the training data: `score`. The `LABEL_0` beside it means nothing, and "
        'without `function_to_apply="none"` the number would be squeezed between 0 and 1.',
    ),
    "tagged": (
        'model = pipeline("token-classification", model="{folder}", aggregation_strategy="first")\n'
        'print(model("some text"))',
        "Training tagged the first token of every word (IOB2), so words are joined to entities by their first token.",
    ),
    "tokens": (
        'model = pipeline("text-generation", model="{folder}")\n'
        'print(model("some text", do_sample=False, max_new_tokens=32)[0]["generated_text"])',
        "",
    ),
}
"""The lines after the import, and what to know of the answer."""

_SPANS = """from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder)
inputs = tokenizer("some question?", "some text that answers it", return_tensors="pt")
said = model(**inputs)
first, last = said.start_logits.argmax(), said.end_logits.argmax()
print(tokenizer.decode(inputs["input_ids"][0, first : last + 1]))"""

_COMPLETIONS = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "{folder}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
prompt = "some text" + {separator!r}
plain = tokenizer(prompt, add_special_tokens=False{split})["input_ids"]
whole = tokenizer(prompt{split})["input_ids"]  # with what begins a text; some tokenizers also put a token behind it
ids = torch.tensor([whole[: len(whole) - whole[::-1].index(plain[-1])]])
end = tokenizer.eos_token_id
model.generation_config = GenerationConfig(
    do_sample=False, max_new_tokens={most}, eos_token_id=end, pad_token_id=end
)
said = model.generate(ids, attention_mask=torch.ones_like(ids))
print(tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True))"""


def usage(recipe: Recipe) -> str:
    """Return Markdown: a snippet of stock transformers that asks as training did, and what to know of the answer."""
    format = recipe.last_format()
    if isinstance(format, PromptCompletion):
        return _completions(recipe, format)
    if format.yields == "spans":  # transformers 5 has no pipeline for it
        return _python(_SPANS.format(folder=_FOLDER))
    lines, said = _PIPELINES[format.yields]
    snippet = _python(f"from transformers import pipeline\n\n{lines.format(folder=_FOLDER)}")
    return f"{snippet}\n\n{said}" if said else snippet


def _completions(recipe: Recipe, format: PromptCompletion) -> str:
    separator = format.before("")
    most = max((evaluation.max_new_tokens for evaluation in recipe.evaluations.values()), default=0) or 64
    split = ", split_special_tokens=True" if format.special_tokens == "split" else ""
    between = f"the separator {code(repr(format.separator))}" if format.separator else "no separator"
    return (
        _python(_COMPLETIONS.format(folder=_FOLDER, separator=separator, most=most, split=split))
        + f"\n\nA prompt is the text of the column {code(format.prompt)}, then {between}, with the token that begins a "
        "text where the tokenizer has one and without one that ends it. "
        + ("Blanks at the separator's end are left to the answer. " if separator != format.separator else "")
        + "The model writes the answer, always the most probable token, and then its end token. In training, prompts "
        f"were cleaned of blanks at the ends of lines, and of a row beyond {format.max_tokens} tokens the prompt lost "
        "its beginning."
    )


def adapter_usage(recipe: Recipe, base: FoundModel, labels: int, pad_token_id: int | None = None) -> str:
    """Return Markdown that loads the version's adapter over the base model, with stock peft.

    `labels` counts the head's; 0 for a head without. `pad_token_id` is given where the base's config has another.
    """
    kind = recipe.phases[-1].objective.needs
    loader, (name, _, revision) = _CLASSES[kind], base.name.partition("@")
    head = f", num_labels={1 if kind == 'scored' else labels}" if kind == "scored" or labels else ""
    head += "" if pad_token_id is None else f", pad_token_id={pad_token_id}"
    place = f'{_quoted(name)}, revision="{revision}"' if revision else '"path/to/the/base/model"'
    where = (
        ""
        if revision
        else f" The base is {code(base.name)}: give its folder yourself. `adapter_config.json` names it as the recipe "
        "does, which peft's `AutoPeftModel` cannot open on its own."
    )
    return (
        "`adapter/` holds the last phase's adapter, moved to the chosen alpha, for servers with many over one base. "
        f"Over the base model it is this model.{where}\n\n"
        + _python(
            f"from peft import PeftModel\nfrom transformers import {loader}\n\n"
            f"base = {loader}.from_pretrained({place}{head})\n"
            f'model = PeftModel.from_pretrained(base, "{_FOLDER}/adapter")'
        )
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(text: str) -> str:
    return block(text, "python")
