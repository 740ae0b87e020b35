"""What a recipe asks for its data's protection and cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.recipe.parts import RecipeParts
from ftlib.wording import these


def protection_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which columns cannot be redacted, and what encrypts nothing."""
    if recipe.encryption.kms_key is not None and not recipe.publish.to.place().remote:
        yield (
            f"encryption.kms_key: {recipe.encryption.kms_key!r} is asked of a store, and publish.to is a folder, which "
            "encrypts nothing; publish to a bucket, or leave the key out and encrypt the disk"
        )
    for name, dataset in recipe.datasets.items():
        where, asked = f"datasets.{name}.personal_data.columns", dataset.personal_data.columns
        for column in (dataset.key, dataset.updated):
            if column is not None and asked.get(column) == "redact":
                yield (
                    f"{where}.{column}: 'redact' would make its values one, and rows are told apart by them; refuse "
                    "such rows, or make another column the key"
                )
        if left_out := {*dataset.source.drop_columns} & {*asked}:
            yield f"{where}: {these(left_out)} is in source.drop_columns, so there is nothing to look at; remove it"
