from pathlib import Path

import pytest

from ftlib.testing import tiny_recipe as write_tiny_recipe


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_recipe(tmp_path_factory.mktemp("tiny"))
