"""The report's record."""

from __future__ import annotations

from ftlib.artifacts import Artifact


class Report(Artifact):
    """The page people look at: `report.html`, self-contained, `report.md`, and the plots as `*.svg` and `*.png`."""

    html: str
    """File names inside the folder."""
    markdown: str
    plots: tuple[str, ...]
    suspects: str = ""
    """The ids of rows whose labels may be wrong; empty where rows have not one label each."""

    def digest(self) -> str:
        """Return what the report was made from: its job."""
        return self.fingerprint
