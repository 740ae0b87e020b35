"""The base model with more tokens, in its tokenizer and tensors: rows are prepared for it, phases start from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftlib.artifacts import Artifact
from ftlib.errors import ModelError
from ftlib.fingerprint import Job, digest
from ftlib.models.added_tokens import AddedToken
from ftlib.models.checkpoint import FoundModel, model_in
from ftlib.models.folder import facts_beside, files_digest
from ftlib.progress import note
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor, nn


class AddTokensJob(Job):
    """Which model learns to read and write which tokens."""

    stage: ClassVar[str] = "add_tokens"
    version: ClassVar[int] = 1

    model: FoundModel
    tokens: tuple[AddedToken, ...]


class WithTokens(Artifact):
    """A model in `model/`, as stock transformers loads it, whose tokenizer and tensors have more tokens."""

    weights: str
    """As `FoundModel.weights`."""
    tokenizer: str
    generation: str = ""
    reads: str = ""
    ids: tuple[int, ...]
    """What the tokens are numbered, in the recipe's order."""

    def found(self, name: str) -> FoundModel:
        """Return it as a model to start from, called as the one that the recipe names."""
        return FoundModel(
            name=name,
            uri=self.uri_of(model_in(Path())),
            weights=self.weights,
            tokenizer=self.tokenizer,
            generation=self.generation,
            reads=self.reads,
        )

    def digest(self) -> str:
        """Return the digest of all that is handed on, and which tokens are new."""
        return digest([self.weights, self.tokenizer, self.generation, self.reads, list(self.ids)])


def add_tokens(job: AddTokensJob, work: Workspace) -> WithTokens:
    """Return the model with the tokens, whose rows begin as the mean of others.

    Raises ModelError for an adapter, a model without an embedding of tokens, a token that the tokenizer has, and words
    to begin like that it cannot read.
    """
    return work.once(job, WithTokens, lambda folder: _build(job, folder))


def _build(job: AddTokensJob, folder: Path) -> WithTokens:
    from ftlib.kinds.writing import copy_beside

    source, target = job.model.folder, model_in(folder)
    if job.model.base is not None:
        raise ModelError(
            f"added_tokens: {job.model.name} is an adapter, which stands on the rows of its base; start from a model"
        )
    target.mkdir(parents=True)
    copy_beside(source, target)
    ids, begins = add_to_tokenizer(source, job.tokens, target)
    before, after = add_to_model(source, ids, begins, target)
    grown = f"{before:,} to {after:,} rows" if after > before else f"{before:,} rows, some of which nobody used"
    note("add_tokens", f"{counted(len(ids), 'token')} more, from number {ids[0]}: {grown}")
    return WithTokens(weights=files_digest(target), ids=tuple(ids), **facts_beside(target))


def add_to_tokenizer(source: Path, tokens: Sequence[AddedToken], target: Path) -> tuple[list[int], list[list[int]]]:
    """Write the tokenizer of a folder with more tokens; return each one's id, and the ids that it begins like.

    Of one without `like` these are none. Raises ModelError for a token that the tokenizer has, and for `like` that it
    cannot read.
    """
    from tokenizers import AddedToken as Added
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    known: dict[str, int] = tokenizer.get_vocab()
    if twice := [one.token for one in tokens if one.token in known]:
        raise ModelError(
            f"added_tokens: the tokenizer of {source} has {twice[0]!r} already, as number {known[twice[0]]}; leave it "
            "out"
        )
    begins: list[list[int]] = []
    for one in tokens:
        ids: list[int] = tokenizer(one.like or "", add_special_tokens=False, verbose=False)["input_ids"]
        if one.like is not None and not [i for i in ids if i != tokenizer.unk_token_id]:
            raise ModelError(f"added_tokens: {one.token!r} is to begin like {one.like!r}, which no token stands for")
        begins.append(ids if one.like is not None else [])
    tokenizer.add_tokens([Added(one.token, special=one.special, normalized=False, single_word=False) for one in tokens])
    tokenizer.save_pretrained(target)
    return tokenizer.convert_tokens_to_ids([one.token for one in tokens]), begins


def add_to_model(source: Path, ids: Sequence[int], begins: Sequence[Sequence[int]], target: Path) -> tuple[int, int]:
    """Write the model of a folder with rows for more tokens, in fp32, as stock transformers does it.

    Returns how many rows it had and has. A row begins as the mean of those that it is like, of none as the mean of all
    that were tokens: in the embedding and in what of the output has a row for every token, which stays tied if it was.
    Rows that nobody used are taken before the tensors grow. Raises ModelError for a model without an embedding.
    """
    from ftlib.kinds.loading import load_as_named
    from ftlib.kinds.writing import SHARD_SIZE
    from ftlib.models.quiet import quiet

    model, missing = load_as_named(source)
    if model.get_input_embeddings() is None:
        raise ModelError(f"added_tokens: {type(model).__name__} has no embedding of tokens; leave added_tokens out")
    tokens = min(ids)  # those that the tokenizer had have the ids below, and maybe not all of these
    had = int(model.get_input_embeddings().weight.shape[0])
    rows = max(had, max(ids) + 1)
    with quiet():
        model.resize_token_embeddings(rows, mean_resizing=False)
    for tensor in _with_rows(model, rows):
        _begin(tensor, ids, begins, tokens)
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in missing}
    with quiet():
        model.save_pretrained(target, state_dict=state, max_shard_size=SHARD_SIZE)
    return had, rows


def _with_rows(model: Any, rows: int) -> list[Tensor]:
    """Return what has a row for every token, each once though it may be tied: weights, and the output's bias."""
    output: nn.Module | None = model.get_output_embeddings()
    holders = [model.get_input_embeddings(), *([output] if output is not None else [])]
    found = [tensor for module in holders for tensor in cast("nn.Module", module).parameters()]
    found += [buffer for name, buffer in model.named_buffers() if name.endswith("final_logits_bias")]
    return [*{id(t): t for t in found if rows in (t.shape[0], t.shape[-1])}.values()]


def _begin(tensor: Tensor, ids: Sequence[int], begins: Sequence[Sequence[int]], tokens: int) -> None:
    import torch

    with torch.no_grad():
        table = tensor.T if tensor.ndim == 2 and tensor.shape[0] == 1 else tensor  # BART's bias lies in a row
        before = table[:tokens].double()
        for id, like in zip(ids, begins, strict=True):
            table[id] = (before[[*like]] if like else before).mean(0).to(table.dtype)
