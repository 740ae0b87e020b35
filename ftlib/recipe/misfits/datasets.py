"""Which datasets nobody uses, and whose columns or shares cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.data.splitting import SplitPolicy
from ftlib.recipe.parts import RecipeParts
from ftlib.wording import these


def dataset_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which datasets nobody uses, and whose columns or shares cannot be."""
    used = {*recipe.training_datasets(), *recipe.evaluation_datasets()}
    for name, dataset in recipe.datasets.items():
        split = dataset.split
        if name not in used:
            yield f"datasets.{name}: no phase and no evaluation uses it; remove it"
        if dataset.updated and not dataset.key:
            yield f"datasets.{name}.updated: orders the versions of a key, and there is no key: add one or remove it"
        dropped = {*dataset.source.drop_columns}
        read = {*dataset.format.columns, *dataset.columns, dataset.key, dataset.updated, split.column}
        if both := dropped & read:
            yield f"datasets.{name}.source.drop_columns: {these(map(str, both))} is read; leave it in"
        if split.by in SplitPolicy.needs_column and not split.column:
            yield f"datasets.{name}.split: by {split.by!r} needs a column"
        if split.by not in SplitPolicy.needs_column and split.column:
            yield f"datasets.{name}.split: by {split.by!r} reads no column, got {split.column!r}; remove it"
        if split.by == "stratified" and not dataset.format.stratifies:
            yield f"datasets.{name}.split: 'stratified' needs labels; format {dataset.format.kind!r} has none"
        if split.validation + split.test > 1.0 + 1e-9:
            yield f"datasets.{name}.split: validation + test is {split.validation + split.test:g}, at most 1"
        if name in recipe.training_datasets() and split.by != "given" and split.validation + split.test > 1.0 - 1e-9:
            yield f"datasets.{name}.split: nothing is left to train on: validation + test is 1"
    yield from _chat_misfits(recipe)
    yield from _split_misfits(recipe)
    yield from _data_worker_misfits(recipe)


def _chat_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which formats of texts would be given chats."""
    for name, dataset in recipe.datasets.items():
        if dataset.source.gives_chats and not dataset.format.reads_turns:
            yield (
                f"datasets.{name}.format: {dataset.format.kind!r} reads texts, and the source's prompts are turns of "
                "chats; take format chat, or one with layout: chats"
            )


def _data_worker_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say whose rows several workers cannot share."""
    for name, dataset in recipe.datasets.items():
        if recipe.compute.prepares_on_ray and (dataset.format.shows_images or dataset.source.image_columns):
            yield (
                f"compute.data_workers: {recipe.compute.data_workers}, but the rows of datasets.{name} hold images, "
                "which one process decodes; set it to 0"
            )


def _split_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which datasets would learn of one row what they hold out of another, of their own or of a dataset beside."""
    firsts: dict[str, str] = {}
    for name, dataset in recipe.datasets.items():
        if (column := dataset.source.group_column) and dataset.split.by in ("random", "stratified"):
            yield (
                f"datasets.{name}.split: by {dataset.split.by!r}, but what is held out of one row of source "
                f"{dataset.source.kind!r} is in others; give it `by: group, column: {column}`"
            )
        if (made_of := dataset.source.made_of) is None:
            continue
        first = firsts.setdefault(made_of, name)
        if dataset.split != (other := recipe.datasets[first]).split or dataset.key != other.key:
            yield (
                f"datasets.{name}: split and key are not those of {first!r}, whose rows are made of {made_of}, too: "
                "what one holds out the other may learn; give both the same"
            )
