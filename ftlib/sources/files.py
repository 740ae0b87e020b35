"""Local jsonl, csv and parquet files: a path, a glob or a folder."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class Files(Config):
    """Rows from local files.

    Files("rows.jsonl")         one file
    Files("rows/*.parquet")     a glob
    Files("rows/")              every .jsonl, .csv and .parquet in the folder and below, names starting with . or _ left out
    """

    kind: Literal["files"] = "files"
    path: str
