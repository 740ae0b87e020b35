"""Two configs compared by what they make of equal tensors: heads, activations, positions, norms, problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ftlib.errors import ModelError
from ftlib.models.folder import read_config
from ftlib.wording import some

_MEANINGLESS = re.compile(
    # names, versions, dtypes and labels, which are compared elsewhere or say nothing of the function
    r"_.*|name_or_path|.*version.*|torch_dtype|dtype|id2label|label2id|num_labels|tokenizer_class|processor_class"
    r"|finetuning_task|task_specific_params|prefix|vocab_size"
    # training: noise, first values, auxiliary losses
    r"|.*dropout.*|.*_pdrop|.*layerdrop|drop_path_rate|initializer_\w+|init_std|router_aux_loss_coef|router_z_loss_coef"
    r"|output_router_logits|mask_(time|feature)_.*|apply_spec_augment"
    # how it is run, not what it computes
    r"|use_cache|return_dict|output_attentions|output_hidden_states|output_scores|gradient_checkpointing|torchscript"
    r"|use_bfloat16|pretraining_tp|chunk_size_feed_forward|attn_implementation|experts_implementation"
    # generation
    r"|(?!pad_token_id$).*_token_ids?|max_length|min_length|max_new_tokens|do_sample|early_stopping|num_beams"
    r"|num_beam_groups|diversity_penalty|temperature|top_k|top_p|typical_p|repetition_penalty|length_penalty"
    r"|(encoder_)?no_repeat_ngram_size|bad_words_ids|num_return_sequences|return_dict_in_generate|suppress_tokens"
    r"|begin_suppress_tokens|remove_invalid_values|exponential_decay_length_penalty"
)
_GRADUAL = re.compile(
    r".*eps(ilon)?|rope_(?!.*partial).*|max_position_embeddings|original_max_position_embeddings|n_positions|n_ctx"
    r"|max_(seq|sequence)_len(gth)?|seq_length|model_max_length|(use_)?sliding_window|max_window_layers"
    r"|attention_window|pad_token_id"
)
"""Fields under which equal tensors still mean nearly the same: long-context fine-tunes change some, and are merged."""
_STRUCTURE = re.compile(
    r".*(head|activation|position_embedding|layer_types|scal|softcap|experts|groups|decoder|causal).*|.*_act"
    r"|model_type|tie_.*"
)
"""Fields that decide what tensors mean in an architecture that transformers does not know here."""

_FORMERLY = {"position_embedding_type": "absolute"}
"""Fields that transformers 5 no longer knows, and what their absence meant."""


def compare_configs(ours: Path, theirs: Path, names: tuple[str, str], result: str) -> list[str]:
    """Compare two folders' configs; `names` is how messages call them, `result` whose config the merge has.

    Returns a warning for every field that shifts what equal tensors compute. Raises ModelError, naming the fields with
    both values, for those that give them another meaning.
    """
    refused, warned = list[str](), list[str]()
    for field, (our_value, their_value), refuse in _differences(ours, theirs):
        difference = f"{field} is {_shown(our_value)} in {names[0]!r} and {_shown(their_value)} in {names[1]!r}"
        (refused if refuse else warned).append(difference)
    if refused:
        raise ModelError(
            f"config: {some(refused, between='; ')}: equal tensors mean something else there, and a mix of them means "
            "nothing; merge checkpoints of one architecture, or correct the config that is wrong"
        )
    return [f"config: {difference}; the result has {result!r}'s" for difference in warned]


def _differences(ours: Path, theirs: Path) -> Iterator[tuple[str, tuple[object, object], bool]]:
    """Yield the fields that differ, with both values and whether equal tensors mean something else by them."""
    raw = [read_config(folder) for folder in (ours, theirs)]
    yield from _problem(*raw)
    if _flat(raw[0]) == _flat(raw[1]):  # almost always: nothing has to be imported to say so
        return
    full = [_with_defaults(folder) for folder in (ours, theirs)]
    if full[0] is None or full[1] is None or raw[0].get("model_type") != raw[1].get("model_type"):
        flat, fields = [_flat(config) for config in raw], None
    else:
        flat, fields = [_flat(config) for config, _ in (full[0], full[1])], full[0][1] | full[1][1]
    for field in sorted(flat[0].keys() | flat[1].keys()):
        leaf = field.rpartition(".")[2]
        our_value, their_value = (config.get(field, _FORMERLY.get(leaf)) for config in flat)
        if our_value == their_value or (fields is None and not our_value and not their_value):
            continue
        if leaf == "pad_token_id" and None in (our_value, their_value):
            continue  # one was trained before it needed any
        gradual = any(map(_GRADUAL.fullmatch, field.split(".")))
        structural = leaf in _FORMERLY or (bool(_STRUCTURE.fullmatch(leaf)) if fields is None else field in fields)
        yield field, (our_value, their_value), structural and not gradual


def _problem(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[tuple[str, tuple[object, object], bool]]:
    """Compare what the logits are: transformers takes a number for one label, and else one label of several."""
    types = [config.get("problem_type") for config in (ours, theirs)]
    single = [len(config.get("id2label") or (0, 1)) == 1 for config in (ours, theirs)]
    meant = [s or ("regression" if o else "single_label_classification") for s, o in zip(types, single, strict=True)]
    if any(types) and meant[0] != meant[1]:
        yield "problem_type", (types[0], types[1]), True


def _with_defaults(folder: Path) -> tuple[dict[str, Any], set[str]] | None:
    """Return a config as transformers fills it in, and the fields that its class knows; None where it knows none."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return config.to_dict(), {*_flat(type(config)().to_dict()), "architectures", "model_type"}
    except Exception:  # a newer or a foreign architecture: its tensors can be merged all the same
        return None


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, object]:
    """Return the fields that mean something, nested ones by their path."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if _MEANINGLESS.fullmatch(key) or key == "problem_type":
            continue
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _shown(value: object) -> str:
    text = "unset" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
