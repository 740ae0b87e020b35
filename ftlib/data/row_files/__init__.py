"""Readers of jsonl, csv and parquet that hold one row at a time and say of every row they cannot read where and why.

A file is hashed while it is read: if it changed since it was pinned, the last step of its reading raises DataError.
"""

from ftlib.data.row_files.files import COMPRESSED, SUFFIXES, pin_file, read_file

__all__ = ["COMPRESSED", "SUFFIXES", "pin_file", "read_file"]
