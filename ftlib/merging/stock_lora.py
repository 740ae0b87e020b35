"""A U-Net's adapter as diffusers loads it: `pytorch_lora_weights.safetensors`, with the scale folded into B.

diffusers finds the scale in the file's metadata, where it was saved with it, and takes 1 where it was not; other tools
read no metadata at all. With alpha / rank multiplied into B, all of them come to the same.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import save_file

from ftlib.errors import ModelError
from ftlib.merging.adapter_points import scaling_of
from ftlib.merging.adapters import adapter_tensors, plain_name, write_scaled
from ftlib.merging.methods import Kernel
from ftlib.models.adapter import read_adapter
from ftlib.models.with_diffusers import LORA
from ftlib.wording import some


def write_stock_lora(adapter: Path, base: Path, merge: Kernel | None, out: Path) -> None:
    """Write the adapter where a method puts it between its base and itself, as one of rank equal to its alpha.

    Names begin with `unet.`, as `load_lora_weights` and `load_lora_adapter(prefix="unet")` expect. Raises ModelError
    for an adapter that holds something else than low-rank matrices, and what `write_scaled` raises.
    """
    with TemporaryDirectory() as scratch:
        write_scaled(adapter, base, merge, Path(scratch))
        config, tensors = read_adapter(Path(scratch)), adapter_tensors(Path(scratch))
    if others := sorted(name for name in tensors if ".lora_A." not in name and ".lora_B." not in name):
        raise ModelError(
            f"{adapter} holds {len(others)} tensors that are no low-rank matrices, among them {some(others, 2)}: "
            "diffusers loads an adapter without them as another model; publish the pipeline alone: publish.adapter: "
            "false"
        )
    folded = {
        plain_name(name): scaling_of(config, plain_name(name).removesuffix(".lora_B.weight")) * tensor
        if ".lora_B." in name
        else tensor
        for name, tensor in tensors.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in folded.items()}, out / LORA, metadata={"format": "pt"})
