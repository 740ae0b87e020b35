"""The publish gate's last question: is the model a stranger loads from the registry the one that was measured?"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from ftlib.config import REPORT, BatchKind
from ftlib.data.chat_template import PROBE
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format
from ftlib.data.images.processing import to_uint8
from ftlib.data.inputs import ATTENTION_MASK, Pixels
from ftlib.data.prepared import split_file
from ftlib.errors import IntegrityError
from ftlib.kinds import drawing
from ftlib.kinds.collate import Collator, in_the_models_unit
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_processor, load_tokenizer, load_with_gaps
from ftlib.kinds.open_split import open_split
from ftlib.kinds.padding import TOLERANCE as PADDING_TOLERANCE
from ftlib.kinds.padding import answers_to, largest_difference, moved_by_padding, own_logits, text_rows
from ftlib.kinds.soft_prompts import answering_for_its_input
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.models.adapter import read_adapter
from ftlib.models.bottlenecks import put_bottlenecks_over
from ftlib.models.checkpoint import BOTTLENECK, Base
from ftlib.models.four_bits import stock_config
from ftlib.models.limits import ids_of, limits_of
from ftlib.models.pipelines import write_pipeline
from ftlib.models.quiet import quiet
from ftlib.models.with_diffusers import LORA, import_diffusers

T = TypeVar("T")

ROWS = 8
TOLERANCE = 1e-5
ADAPTER_TOLERANCE = 1e-3
DRAWN, DRAWN_STEPS, DRAWN_TOLERANCE = 4, 5, 1e-3
"""Captions that are drawn, in so many steps, and what a pixel from 0 to 1 may differ by: rounding grows with steps."""


def logit_difference(folder: Path, candidate: Candidate, data: PreparedDataset) -> float:
    """Load a folder with stock transformers and return its largest difference of logits from the candidate's.

    The candidate is put together in memory from the checkpoints that were evaluated, not from the files that were
    published. Both see the same few real rows of the test split, the longest and the shortest among them: in one
    padded batch, as the candidate was measured, and the folder's model each row alone too, as a stranger asks it.

    Raises IntegrityError if the difference is above `TOLERANCE` (`PADDING_TOLERANCE` from the rows alone) or no
    number, or if labels are named otherwise; ModelError if the folder does not load.
    """

    def theirs() -> nn.Module:
        model = _as_a_stranger(folder, data.kind)
        _check_labels(model, candidate.end.labels)
        _check_tokenizer(model, folder, data.kind)
        return model

    return _compared("model", theirs, candidate, data, TOLERANCE)


def folder_difference(folder: Path, measured: Candidate, kind: BatchKind, data: PreparedDataset | None) -> float:
    """Do as `logit_difference` for a model that no run trained: on rows of `data` or, without any, on a few texts.

    Whatever its files hold, both are read as fp32: bf16 answers differ by their rounding alone.
    """

    def theirs() -> nn.Module:
        model = _as_a_stranger(folder, kind, dtype=torch.float32)
        _check_labels(model, measured.end.labels)
        _check_tokenizer(model, folder, kind)
        return model

    if data is not None:
        return _compared("model", theirs, measured, data, TOLERANCE)

    def on_texts(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        return answers_to(model, kind, text_rows(kind, load_tokenizer(folder), limits_of(folder).positions, model))

    read_back = _asked(theirs, on_texts)
    together, _ = _asked(lambda: model_of(measured, kind), on_texts)
    return _judged("model", measured, *read_back, together, TOLERANCE)


def adapter_difference(folder: Path, base: Path, candidate: Candidate, data: PreparedDataset) -> float:
    """Put an adapter over the base model with stock peft and return its largest difference from the candidate's logits.

    Sums are taken in another order than in merged weights, so more is allowed. Raises as `logit_difference`.
    """
    from peft import PeftModel

    def theirs() -> nn.Module:
        # The head is as random as a stranger's: what the adapter does not bring shows.
        bare, _ = load_with_gaps(base, data.kind, **KINDS[data.kind].head().config(candidate.end.labels))
        with quiet():
            model: Any = PeftModel.from_pretrained(cast(Any, bare), folder)
        return model.eval()

    return _compared("adapter", theirs, candidate, data, ADAPTER_TOLERANCE)


def adapter_version_difference(folder: Path, base: Base, candidate: Candidate, data: PreparedDataset) -> float:
    """Do as `logit_difference` for an adapter's folder: it is put over the stock base as its card says.

    A base in four bits is loaded so by stock transformers, and taken back to what these stand for. Sums are the
    candidate's own, in its order, so no more is allowed than between dense weights read in fp32.
    """
    from peft import PeftModel
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    loading: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    if base.quantization:
        loading["quantization_config"] = stock_config(base.quantization, read_adapter(folder).get("modules_to_save"))

    def theirs() -> nn.Module:
        """Return the stock base with the adapter over it, as a stranger puts them together."""
        with quiet():
            stock: Any = (
                KINDS[data.kind]
                .head()
                .auto_class.from_pretrained(
                    base.folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, **loading
                )
            )
            stock = stock.dequantize() if base.quantization else stock
            if read_adapter(folder)["peft_type"] == BOTTLENECK:
                model: Any = put_bottlenecks_over(stock, folder)
            else:
                model = answering_for_its_input(cast(Any, PeftModel.from_pretrained(stock, folder)))
        _check_labels(model, candidate.end.labels)
        _check_tokenizer(model, folder, data.kind)
        return model.eval()

    return _compared("adapter", theirs, candidate, data, TOLERANCE)


def drawn_difference(folder: Path, candidate: Candidate, data: PreparedDataset) -> float:
    """Load a pipeline's folder with stock diffusers; return how far what it draws is from what the candidate draws.

    Both draw the captions of a few real rows of the test split from the same seeds, without a caption taken off, in few
    steps; of a pixel from 0 to 1 the largest difference counts. Raises IntegrityError if it is above `DRAWN_TOLERANCE`
    or no number.
    """
    diffusers = import_diffusers()
    with quiet():
        unet = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True)
    return _drawn_alike("pipeline", unet, folder, candidate, data)


def drawn_adapter_difference(adapter: Path, base: Path, candidate: Candidate, data: PreparedDataset) -> float:
    """Put an adapter over the base's U-Net as stock diffusers does; return as `drawn_difference` does, and raise."""
    with TemporaryDirectory() as scratch, quiet():
        write_pipeline(base, Path(scratch))
        unet: Any = import_diffusers().UNet2DConditionModel.from_pretrained(
            Path(scratch) / "unet", local_files_only=True
        )
        unet.load_lora_adapter(adapter, prefix="unet", weight_name=LORA, local_files_only=True)
        return _drawn_alike("adapter", unet, Path(scratch), candidate, data)


@torch.inference_mode()
def _drawn_alike(what: str, unet: Any, folder: Path, candidate: Candidate, data: PreparedDataset) -> float:
    """Draw as a stranger does, with stock parts and the tokenizer of a pipeline's folder, and compare."""
    from transformers import AutoModel, AutoTokenizer

    diffusers, local = import_diffusers(), {"local_files_only": True}
    ours: Any = model_of(candidate, data.kind)
    split = open_split(split_file(data.path, REPORT), candidate.end.labels)
    rows = _some_rows(split)[:DRAWN]
    asked = split.batch(rows, Collator.of(ours)).inputs
    own = drawing.draw(ours, asked["input_ids"], asked["attention_mask"], range(len(rows)), steps=DRAWN_STEPS)
    with quiet():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer", **local)
        encoder: Any = AutoModel.from_pretrained(folder / "text_encoder", **local)
        scheduler: Any = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", **local)
        has_vae = (folder / "vae").is_dir()
        vae: Any = diffusers.AutoencoderKL.from_pretrained(folder / "vae", **local) if has_vae else None
    ids = [row[mask.bool()].tolist() for row, mask in zip(asked["input_ids"], asked["attention_mask"], strict=True)]
    longest = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    padded = tokenizer.pad(
        {"input_ids": [*ids, tokenizer("")["input_ids"]]}, "max_length", longest, return_tensors="pt"
    )
    masked = {"attention_mask": padded["attention_mask"]} if encoder.config.to_dict().get("use_attention_mask") else {}
    said = encoder(padded["input_ids"], **masked)[0]
    captions, nothing = said[:-1], said[-1:].expand(len(rows), -1, -1)
    shape = ours.image_shape
    image = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(len(rows))])
    scheduler.set_timesteps(DRAWN_STEPS)
    for step in scheduler.timesteps:
        with_caption, without = (unet(image, step, encoder_hidden_states=text).sample for text in (captions, nothing))
        guided = without + drawing.GUIDANCE * (with_caption - without)
        image = scheduler.step(guided, step, image).prev_sample
    if vae is not None:
        image = vae.decode(image / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
    difference = float(((image / 2 + 0.5).clamp(0, 1) - own).abs().max())
    if not difference <= DRAWN_TOLERANCE:
        raise IntegrityError(
            f"the {what} read back from the registry draws images that differ by {difference:.3g} from those of "
            f"{candidate.name!r} from the same seeds, at most {DRAWN_TOLERANCE:g} is allowed; nothing was published"
        )
    return difference


def check_image_processor(folder: Path, candidate: Candidate, format: Format, data: PreparedDataset) -> None:
    """Compare what a folder's stock image processor makes of images with what its model learnt from; texts have none.

    The images are real ones of the test split, whole, and cut to be wide and to be high, as files are. Raises
    IntegrityError if a pixel differs by more than `TOLERANCE`, in the model's unit, or if sizes do.
    """
    from PIL import Image
    from transformers import AutoImageProcessor

    own = format.image_processor(load_processor(candidate.end.folder))
    if own is None:
        return
    split = open_split(split_file(data.path, REPORT), candidate.end.labels)
    (column,) = (one for one in split.inputs if isinstance(one, Pixels))
    images = [
        Image.fromarray(pixels[:, :height, :width].transpose(1, 2, 0))
        for pixels in split.pixels(_some_rows(split), column.name)
        for height, width in ((column.height, column.width), (column.height * 2 // 3, column.width), (None, 7))
    ]
    stock: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    theirs = np.stack(stock(images)["pixel_values"])
    ours = in_the_models_unit(np.stack(to_uint8(own, images)), column)
    difference = float(np.abs(theirs - ours).max()) if theirs.shape == ours.shape else float("inf")
    if not difference <= TOLERANCE:
        raise IntegrityError(
            f"the image processor read back from the registry makes images of {theirs.shape[1:]} that differ by "
            f"{difference:.3g} from those of {ours.shape[1:]} that {candidate.name!r} learnt from, at most "
            f"{TOLERANCE:g} is allowed; nothing was published"
        )


def check_chat_template(folder: Path, candidate: Candidate, format: Format) -> None:
    """Compare what a folder's stock tokenizer makes of a chat with what its model learnt from; other rows have none.

    Raises IntegrityError if one token differs, or if stock `generate` would write beyond a turn's end.
    """
    from transformers import AutoTokenizer, GenerationConfig

    template = format.chat_template(load_processor(candidate.end.folder))
    if template is None:
        return
    stock: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for chat, how in ((PROBE[:1], {"add_generation_prompt": True}), (PROBE, {})):
        theirs = stock.apply_chat_template([*chat], return_dict=True, **how)["input_ids"]
        ours = template.prompt(chat) if how else template.tokens(chat)
        if theirs != ours:
            raise IntegrityError(
                f"the tokenizer read back from the registry writes a chat as {theirs}, and {candidate.name!r} learnt "
                f"from {ours}; nothing was published"
            )
    ends = ids_of(GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id)
    if template.end is not None and template.end not in ends:
        raise IntegrityError(
            f"the model read back from the registry stops at {ends}, and a turn ends with {template.end}; nothing was "
            "published"
        )


def _compared(
    what: str, theirs: Callable[[], nn.Module], candidate: Candidate, data: PreparedDataset, tolerance: float
) -> float:
    """Return the largest difference of what was read back from the candidate, in one padded batch and row by row.

    Raises IntegrityError if it is beyond `tolerance`.
    """
    split = open_split(split_file(data.path, REPORT), candidate.end.labels)
    rows = _some_rows(split)

    def together_and_alone(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        alone = [one for i in range(len(rows)) for one in _logits(model, split, rows[i : i + 1])]
        return _logits(model, split, rows), alone

    read_back = _asked(theirs, together_and_alone)
    ours = _asked(lambda: model_of(candidate, data.kind), lambda model: _logits(model, split, rows))
    return _judged(what, candidate, *read_back, ours, tolerance)


def _asked(load: Callable[[], nn.Module], ask: Callable[[nn.Module], T]) -> T:
    """Ask a model and let go of it: two whole ones at a time may be more than the machine has memory for."""
    answer = ask(load())
    gc.collect()  # a model may hold itself
    return answer


def _judged(
    what: str,
    candidate: Candidate,
    theirs: Sequence[Tensor],
    alone: Sequence[Tensor],
    ours: Sequence[Tensor],
    tolerance: float,
) -> float:
    """Return how far what was read back differs from ours in one batch; `alone` is what it says of each row alone."""
    difference = largest_difference(theirs, ours)
    if not difference <= tolerance:  # written so that NaN fails
        raise IntegrityError(
            f"the {what} read back from the registry gives logits that differ by {difference:.3g} from those of "
            f"{candidate.name!r}, at most {tolerance:g} is allowed; nothing was published"
        )
    padded = moved_by_padding(ours, alone)
    if not padded <= max(tolerance, PADDING_TOLERANCE):
        raise IntegrityError(
            f"the {what} read back from the registry answers a row alone otherwise than {candidate.name!r} was "
            f"measured in a padded batch, by {padded:.3g}, at most {PADDING_TOLERANCE:g} is allowed: an answer must "
            "not depend on the padding; nothing was published"
        )
    return difference


def _as_a_stranger(folder: Path, kind: BatchKind, **how: Any) -> nn.Module:
    """Load with transformers alone: none of our code may be needed to use what we publish."""
    model: nn.Module = (
        KINDS[kind]
        .head()
        .auto_class.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **how)
    )
    return model.eval()


def _check_labels(model: nn.Module, labels: tuple[str, ...]) -> None:
    config: Any = model.config
    named = tuple(config.id2label[i] for i in range(len(labels))) if labels else ()
    if named != labels:
        raise IntegrityError(f"the model read back names its labels {', '.join(named)}; they are {', '.join(labels)}")


def _check_tokenizer(model: nn.Module, folder: Path, kind: BatchKind) -> None:
    if KINDS[kind].modality != "text":
        return
    pad, theirs = Collator.of(model).pad_token_id, load_tokenizer(folder).pad_token_id
    if KINDS[kind].reads_one_place and theirs != pad:
        raise IntegrityError(
            f"the tokenizer read back fills rows up with {theirs}, and the model finds the place it "
            f"reads by {pad}; nothing was published"
        )


def _some_rows(split: PreparedSplit) -> Int[np.ndarray, " rows"]:
    spread = np.linspace(0, len(split) - 1, num=min(ROWS, len(split))).astype(np.int64)
    return np.unique([*spread, np.argmax(split.sizes), np.argmin(split.sizes)])


@torch.inference_mode()
def _logits(model: nn.Module, split: PreparedSplit, rows: Int[np.ndarray, " rows"]) -> list[Tensor]:
    """Return the logits of each row, or of each text of a row, asked in one batch, padded as the config says."""
    batch = split.batch(rows, Collator.of(model))
    mask = batch.inputs.get(ATTENTION_MASK)
    # The mask of an encoder-decoder is its encoder's.
    lengths = split.lengths[rows].tolist() if mask is None or KINDS[split.kind].decodes else mask.sum(1).tolist()
    return own_logits(split.kind, model(**batch.inputs), lengths)
