"""Icon themes to folders of labelled images, from packages made here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ftlib.errors import DataError
from recipes import icons

needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not here")


def package(folder: Path, theme: icons.Theme, names: list[str], links: dict[str, str] | None = None) -> Path:
    """Make a theme's package, whose icons are noise of 8 pixels, and links among them."""
    tree = folder / theme.name
    control = tree / "DEBIAN" / "control"
    control.parent.mkdir(parents=True)
    control.write_text(f"Package: {theme.package}\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    root = tree / "usr/share/icons" / theme.folder
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng([i, *theme.name.encode()]).integers(0, 256, (8, 8, 4), np.uint8)
        Image.fromarray(noise).save(root / name)
    for name, target in (links or {}).items():
        (root / name).symlink_to(target)
    file = folder / f"{theme.package}_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, file], check=True, capture_output=True)
    return file


@needs_dpkg
def test_other_themes_keep_the_icons_that_the_training_theme_has(tmp_path: Path) -> None:
    trained = [f"{context}/{i}.png" for context in ("apps", "places") for i in range(icons.LEAST)]
    few = [f"emotes/{i}.png" for i in range(icons.LEAST - 1)]
    files = [package(tmp_path, icons.TRAINED, [*trained, *few], {"apps/again.png": "1.png"})]
    other = ["apps/1.png", "apps/2.png", "apps/alone.png", "places/3.png", "emotes/1.png", "devices/1.png"]
    files += [package(tmp_path, theme, other) for theme in icons.SHIFTED]
    counts = icons.build(tmp_path / "rows", files)
    assert counts == {"oxygen": 2 * icons.LEAST, "gnome": 3, "mate": 3, "tango": 3}
    kept = {path.relative_to(tmp_path / "rows").as_posix() for path in (tmp_path / "rows").rglob("*.png")}
    assert {name for name in kept if name.startswith("oxygen/")} == {f"oxygen/{name}" for name in trained}
    assert {name for name in kept if name.startswith("tango/")} == {
        "tango/apps/1.png",
        "tango/apps/2.png",
        "tango/places/3.png",
    }
    source = tmp_path / "tango/usr/share/icons/Tango/32x32/apps/1.png"
    assert (tmp_path / "rows/tango/apps/1.png").read_bytes() == source.read_bytes()
    assert "LGPL-3+" in (tmp_path / "rows/sources.txt").read_text()
    assert icons.main([str(tmp_path / "rows")]) == 0


@needs_dpkg
def test_a_package_that_is_laid_out_otherwise_leaves_nothing(tmp_path: Path) -> None:
    files = [package(tmp_path, theme, ["apps/1.png"]) for theme in (icons.TRAINED, *icons.SHIFTED)]
    with pytest.raises(DataError, match="has no icons below oxygen/base/48x48 that belong here"):
        icons.build(tmp_path / "rows", files)
    broken = tmp_path / "oxygen-icon-theme_2_all.deb"
    broken.write_bytes(b"no package")
    with pytest.raises(DataError, match=r"dpkg -x failed for .*oxygen"):
        icons.build(tmp_path / "rows", [broken])
    assert not (tmp_path / "rows").exists()
    assert not list(tmp_path.glob(".rows*"))


def test_without_apt_it_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert icons.main([str(tmp_path / "rows")]) == DataError.exit_code
    assert "apt-get is not on this machine" in capsys.readouterr().err
