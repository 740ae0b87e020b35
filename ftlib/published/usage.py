"""How a published model is asked with stock libraries: the part of its card that people copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ftlib.data.formats.base import Prompting
from ftlib.data.formats.text import reads_text
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import LENGTHENING
from ftlib.models.checkpoint import BOTTLENECK, Base, FoundModel
from ftlib.models.with_diffusers import LORA
from ftlib.recipe.recipe import Recipe
from ftlib.wording import block, code

_FOLDER = "path/to/this/folder"


def usage(recipe: Recipe, folder: str = _FOLDER) -> str:
    """Return Markdown: a snippet of stock transformers that asks as training did, and what to know of the answer.

    The model lies in `folder`.
    """
    format = recipe.published_format()
    kind, prompting = KINDS[format.asked_as], format.prompting
    snippet = _python(
        kind.snippet.format(
            folder=folder,
            prefix=prompting.prefix if prompting else "",
            separator=prompting.reads if prompting else "",
            most=max((evaluation.max_new_tokens for evaluation in recipe.evaluations.values()), default=0) or 64,
            beams=recipe.beams,
            asked='[{"text": "some text", "text_pair": "another"}]' if format.pairs else '"some text"',
            split=", split_special_tokens=True" if reads_text(format) and format.special_tokens == "split" else "",
            # A format from outside may say nothing of these.
            **{"background": "white", "graded": '"some text"', **format.snippet_words()},
        )
    )
    note = kind.note
    if prompting is not None and reads_text(format):
        note = (_of_sources if kind.decodes else _of_prompts)(prompting, format.max_tokens)
    return f"{snippet}\n\n{note}" if note else snippet


def _of_sources(prompting: Prompting, max_tokens: int) -> str:
    prefix = f"the prefix {code(repr(prompting.prefix))} and " if prompting.prefix else ""
    return (
        f"A source is {prefix}the text of the column {code(prompting.column)}. In training, sources were cleaned of "
        f"blanks at the ends of lines and cut to {max_tokens} tokens."
    )


def tasks_usage(recipe: Recipe) -> list[str]:
    """Return Markdown of a version of several tasks: a snippet for each, and how `reglage predict` is told which."""
    first = recipe.tasks[0]
    shared = (
        "Each task is a folder of its own, with the one body and its head. Their body is the same file, byte for byte; "
        f"`reglage predict {recipe.publish.name} --task {first}` answers as one of them."
    )
    return [
        shared,
        *(f"### {task}\n\n{usage(recipe.of_task(task), f'{_FOLDER}/tasks/{task}')}" for task in recipe.tasks),
    ]


def _of_prompts(prompting: Prompting, max_tokens: int) -> str:
    prefix = f"the prefix {code(repr(prompting.prefix))}, then " if prompting.prefix else ""
    between = f"the separator {code(repr(prompting.separator))}" if prompting.separator else "no separator"
    return (
        f"A prompt is {prefix}the text of the column {code(prompting.column)}, then {between}, with the token that "
        "begins a text where the tokenizer has one and without one that ends it. "
        + ("Blanks at the separator's end are left to the answer. " if prompting.reads != prompting.separator else "")
        + "The model writes the answer, always the most probable token, and then its end token. In training, prompts "
        f"were cleaned of blanks at the ends of lines, and of a row beyond {max_tokens} tokens the prompt lost its "
        "beginning."
    )


def adapter_usage(recipe: Recipe, base: FoundModel, labels: int, pad_token_id: int | None = None) -> str:
    """Return Markdown that loads the version's adapter over the base model, with stock peft.

    `labels` counts the head's; 0 for a head without. `pad_token_id` is given where the base's config has another.
    """
    kind = KINDS[recipe.kind(recipe.phases[-1])]
    if kind.predictor is not None and kind.predictor.draws:
        return _drawn_adapter_usage(base)
    loader, (name, _, revision) = kind.auto_class, base.name.partition("@")
    outputs = kind.outputs or labels
    head = f", num_labels={outputs}" if outputs else ""
    head += "" if pad_token_id is None else f", pad_token_id={pad_token_id}"
    base_name = f'{_quoted(name)}, revision="{revision}"' if revision else '"path/to/the/base/model"'
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
            f"base = {loader}.from_pretrained({base_name}{head})\n"
            f'model = PeftModel.from_pretrained(base, "{_FOLDER}/adapter")'
        )
    )


def _drawn_adapter_usage(base: FoundModel) -> str:
    """Return Markdown that loads the version's adapter over the base pipeline's U-Net, with stock diffusers."""
    return (
        f"`adapter/{LORA}` holds the last phase's adapter, moved to the chosen alpha and folded so that its alpha is "
        f"its rank: tools that read no metadata come to the same. The base is {code(base.name)}: give its folder "
        "yourself. A pipeline with a VAE takes it by `load_lora_weights` as well.\n\n"
        + _python(
            "from diffusers import UNet2DConditionModel\n\n"
            'unet = UNet2DConditionModel.from_pretrained("path/to/the/base", subfolder="unet")\n'
            f'unet.load_lora_adapter("{_FOLDER}/adapter", prefix="unet", weight_name="{LORA}")'
        )
    )


def adapter_version_usage(recipe: Recipe, base: Base, adapter: Mapping[str, Any]) -> str:
    """Return Markdown that loads a version that is an adapter, over the stock base model.

    `adapter` is its config: stock peft loads it, or where peft has none of its kind, our own loader.
    """
    loader, (name, _, revision) = KINDS[recipe.kind(recipe.phases[-1])].auto_class, base.name.partition("@")
    hub = bool(revision) and not revision.isdecimal()
    base_name = f'{_quoted(name)}, revision="{revision}"' if hub else '"path/to/the/base/model"'
    where = "" if hub else f" The base is {code(base.name)}: give its folder yourself."
    text = reads_text(recipe.published_format())
    reader, processor = ("tokenizer", "AutoTokenizer") if text else ("image_processor", "AutoImageProcessor")
    settings, given, back, more, rounded = "", "", "", "", ""
    if base.quantization:
        rounded = (
            " It was trained over that model in four bits (NF4), so the base is loaded in them and taken back to what "
            "they stand for; without that line it stays in them, in an eighth of the memory, and computes the same "
            "but for rounding."
        )
        head = adapter.get("modules_to_save")  # never in four bits
        skipped = "" if head is None else f", llm_int8_skip_modules={json.dumps([*dict.fromkeys(head)])}"
        double = base.quantization == "nf4_double"
        settings = (
            'four_bits = BitsAndBytesConfig(\n    load_in_4bit=True, bnb_4bit_quant_type="nf4", '
            f"bnb_4bit_use_double_quant={double}{skipped}\n)\n"
        )
        given, back, more = ", quantization_config=four_bits", "base = base.dequantize()\n", ", BitsAndBytesConfig"
    ours = adapter["peft_type"] == BOTTLENECK
    put, imports = ("PeftModel.from_pretrained", "from peft import PeftModel")
    if ours:
        put, imports = "put_bottlenecks_over", "from ftlib.models.bottlenecks import put_bottlenecks_over"
        rounded += " peft has no such adapter: its loader comes with `pip install reglage`."
    return (
        "This version is an adapter: it holds what training changed, and is put over the base model, whose weights "
        f"have the digest `{base.weights[:16]}`.{where}{rounded} `reglage predict` finds and compares it.\n\n"
        + _python(
            f"{imports}\nfrom transformers import AutoConfig, {loader}, {processor}{more}\n\n"
            f'folder = "{_FOLDER}"\n'
            f"config = AutoConfig.from_pretrained(folder)\n{settings}"
            f'base = {loader}.from_pretrained({base_name}, config=config, dtype="float32"{given})\n{back}'
            f"model = {put}(base, folder)\n"
            f"{reader} = {processor}.from_pretrained(folder)"
        )
        + _of_a_prompt(recipe)
    )


def _of_a_prompt(recipe: Recipe) -> str:
    """Return what to know of a model that stands under a prompt; empty for others."""
    places, kind = max(phase.tuning.places for phase in recipe.phases), KINDS[recipe.kind(recipe.phases[-1])]
    if not places:
        return ""
    by_token = kind.language or kind.answers_by_token
    longer = any(phase.tuning.makes in LENGTHENING for phase in recipe.phases)
    cut = (
        f" Its logits begin with those of the prompt: take them from place {places} on." if by_token and longer else ""
    )
    alone = " Ask it to go on with texts of one length at a time, without padding on the left." if kind.language else ""
    return f"\n\nA prompt of {places} places stands before every text, and nothing can be merged.{cut}{alone}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _python(text: str) -> str:
    return block(text, "python")
