"""A registry in a container of Azure Blob Storage."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config
from ftlib.storage import Place, Store, open_store


class Azure(Config):
    """A registry under a prefix of a container of Azure, by the extra `azure`. Credentials are the environment's."""

    kind: Literal["azure"] = "azure"
    container: str
    """The container's name alone."""
    account: str | None = None
    """The storage account's host, as in account.dfs.core.windows.net; null: AZURE_STORAGE_ACCOUNT_NAME's."""
    prefix: str = ""
    """What all of the registry's keys begin with; empty, it has the container for itself."""

    def place(self) -> Place:
        """Return where it is."""
        return Place("abfs", f"{self.container}@{self.account}" if self.account else self.container, self.prefix)

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return open_store(self.place())
