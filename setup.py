"""What pyproject.toml cannot say: a wheel and an sdist carry the commit and the lock they were built from."""

import runpy
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

WRITE = runpy.run_path(str(Path(__file__).with_name("ftlib") / "origin.py"))["write_origin"]


class BuildWithOrigin(build_py):
    """An editable install has its checkout to ask."""

    def run(self) -> None:
        """Write it once the packages are there."""
        super().run()
        if not self.editable_mode:
            WRITE(Path(self.build_lib))


class SdistWithOrigin(sdist):
    """An sdist has no repository with it: wheels built from it read what is written here."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Write it once the tree is there."""
        super().make_release_tree(base_dir, files)
        WRITE(Path(base_dir))


setup(cmdclass={"build_py": BuildWithOrigin, "sdist": SdistWithOrigin})
