"""What a worker's process holds before it has a model."""

from __future__ import annotations

PROCESS = {"cpu": 700_000_000, "cuda": 1_200_000_000}
"""Bytes by device: Python, torch and transformers; on a GPU the context of CUDA and its libraries, and what the
allocator keeps in pieces."""
