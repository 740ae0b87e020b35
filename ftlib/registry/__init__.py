"""The registry protocol: versions that are whole or invisible, immutable, without gaps; aliases nobody can lose.

    reading       versions, manifests and aliases; needs no write permission
    publishing    from a folder to a committed version
    aliases       which version is the champion: a numbered log, moved by compare-and-swap
    transfers     blobs up and down, a few at once
    race          refuses a store on which two writers can win
    garbage_collection, fsck, signing, hugging_face, mlflow: see there

No object is ever changed, so a stale reader sees an older state, never a torn one; no step needs a lock, a clock or
a delete permission. docs/registry-reference.md has the layout and the reasons.
"""

from ftlib.registry.aliases import CHAMPION, AliasEntry
from ftlib.registry.registry import ModelRegistry
from ftlib.storage.race import probe

__all__ = ["CHAMPION", "AliasEntry", "ModelRegistry", "probe"]
