from __future__ import annotations

import inspect
import io
import re
import tokenize
from importlib import import_module
from pathlib import Path
from typing import Any

import networkx
import pytest

from ftlib.data.rows import Row
from ftlib.data.sources.installed_text import InstalledText
from ftlib.data.sources.passages import Library, masking, reads_like_english
from ftlib.errors import DataError
from ftlib.recipe.recipe import Recipe

DOCUMENTED = '''"""The module of frobnication, which is where every one of the frobs in the house is made.

A second paragraph.
"""

class Frob:
    """Short."""

    def twist(self):
        """Twist the frob until it is as tight as frobber.tools.tighten would have made it, and then stop.

        Args:
            self: it
        """

def again():
    """Twist the frob until it is as tight as frobber.tools.tighten would have made it, and then stop."""

def code():
    """a = b; c = d; e = f; g = h; i = j; k = l; m = n; o = p; q = r; s = t; u = v"""
'''

COMMENTED = """\
# Licensed to whoever wants it, on the terms that are said in the licence file that is there.

x = "# this is a text and no comment, whatever it may look like to those who read it"
'''
# This is a line of a string that is longer than a line, and it is no comment of the code.
'''
y = 1  # a comment behind code is not a paragraph, however long it is and whatever it may say to us

# A frob is twisted by its left end,
# and what it was before that is not kept.
#
# It is the second paragraph of them, which says why frobber.twist does what it does there.
#
# a = b; c = d; e = f; g = h; i = j; k = l; m = n; o = p; q = r; s = t; u = v
"""

DESCRIPTION = """\
# Frobber

[![badge](https://img.shields.io/x.svg)](https://x) <img src="x.png">

Frobber is a [tool](https://frobber.example/docs) for those who have to twist **very** many frobs in a short time.

```python
import frobber  # this is code and it is not prose, however long it may be and whatever it says
```

| a table | of many | words that |
| ------- | ------- | ---------- |
| is not | a passage | for the model to read and it is not kept |

- The first item of the list says that frobs can be twisted in both of the directions.
- Short item.

## Changelog

The entries of a change log are not what the library is about, so they are not kept at all.
"""


@pytest.fixture
def frobber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed library, as pip leaves one."""
    info = tmp_path / "frobber-1.0.dist-info"
    files = {
        "frobber/tools.py": DOCUMENTED,
        "frobber/template.py": '"""{{ not Python """ {% if %}',
        "frobber/tests/test_it.py": '"""The tests of a library are not what it is about, and they are left out."""',
        "frobber-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: frobber\nVersion: 1.0\n\n{DESCRIPTION}",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    record = "".join(f"{name},sha256=x{len(text)},{len(text)}\n" for name, text in files.items())
    (info / "RECORD").write_text(record)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def rows(part: Any, *libraries: str, limit: int = 20) -> list[dict[str, Any]]:
    source = InstalledText(part=part, libraries=libraries, rows_per_library=limit)
    return [row.values for row in source.read(source.pin(), 10**6) if isinstance(row, Row)]


def test_docstrings_are_prose_masked_and_distinct(frobber: Path) -> None:
    assert rows("docstrings", "frobber") == [
        {
            "text": "The module of frobnication, which is where every one of the frobs in the house is made.",
            "library": "frobber",
            "module": "frobber:frobber.tools",
        },
        {
            "text": "Twist the frob until it is as tight as library would have made it, and then stop.",
            "library": "frobber",
            "module": "frobber:frobber.tools",
        },
    ]


def test_readmes_are_paragraphs_without_markup(frobber: Path) -> None:
    assert [row["text"] for row in rows("readmes", "frobber")] == [
        "library is a tool for those who have to twist very many frobs in a short time.",
        "The first item of the list says that frobs can be twisted in both of the directions.",
    ]


def test_comments_are_paragraphs_on_lines_of_their_own(frobber: Path) -> None:
    (frobber / "frobber/tools.py").write_text(COMMENTED)
    assert [(row["text"], row["module"]) for row in rows("comments", "frobber")] == [
        ("A frob is twisted by its left end, and what it was before that is not kept.", "frobber:frobber.tools"),
        (
            "It is the second paragraph of them, which says why library does what it does there.",
            "frobber:frobber.tools",
        ),
    ]


def test_comments_are_those_that_python_sees() -> None:
    """Against `tokenize`: a passage's words stand in comments of its module, in this order."""
    found = rows("comments", "networkx", limit=40)
    assert len(found) == 40
    site = Path(networkx.__file__).parents[1]
    for row in found:
        path = str(row["module"]).split(":")[1].replace(".", "/")
        (source,) = [p for p in map(site.joinpath, (f"{path}.py", f"{path}/__init__.py")) if p.is_file()]
        tokens = tokenize.generate_tokens(io.StringIO(source.read_text()).readline)
        comments = " ".join(token.string.lstrip("#! ") for token in tokens if token.type == tokenize.COMMENT)
        first = re.split(r"library|[`*_]", str(row["text"]))[0].split()[:6]
        assert " ".join(first) in re.sub("[`*_]", "", " ".join(comments.split()))


def test_the_pin_changes_with_the_recorded_files(frobber: Path) -> None:
    before = Library("frobber").pin()
    assert before.uri == "installed:frobber==1.0"
    record = frobber / "frobber-1.0.dist-info/RECORD"
    record.write_text(record.read_text().replace("frobber/tools.py,sha256=x", "frobber/tools.py,sha256=y"))
    after = Library("frobber").pin()
    assert after.sha256 != before.sha256
    with pytest.raises(DataError, match="changed while it was read"):
        list(InstalledText(part="docstrings", libraries=("frobber",)).read((before,), 10**6))


def test_a_library_that_is_absent_or_has_no_record(frobber: Path) -> None:
    with pytest.raises(DataError, match="'no-such-library' is not installed here"):
        InstalledText(part="docstrings", libraries=("no-such-library",)).pin()
    (frobber / "frobber-1.0.dist-info/RECORD").unlink()
    with pytest.raises(DataError, match="'frobber' has no list of its files"):
        InstalledText(part="docstrings", libraries=("frobber",)).pin()


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("call numpy.linalg.norm(x) or np.sum", "call _(x) or _"),
        ("NumPy and PyTorch, torch_dtype", "_ and _, _"),
        ("a scikit-learn or sklearn.svm.SVC", "a _ or _"),
        ("an input, a ray of light", "an input, a ray of light"),
        ("see :class:`~numpy.ndarray`.", "see :class:`~_`."),
        ("Hugging Face hub, huggingface_hub", "_ hub, _"),
    ],
)
def test_a_library_s_own_names_are_masked_wherever_they_stand(text: str, masked: str) -> None:
    libraries = [Library(name) for name in ("numpy", "torch", "scikit-learn", "huggingface-hub")]
    assert masking(name for library in libraries for name in library.names()).sub("_", text) == masked


def test_passages_are_what_importing_the_library_shows() -> None:
    """Against `inspect`: a passage's beginning is in the docstring of something in its module."""
    found = rows("docstrings", "networkx", limit=30)
    assert len(found) == 30
    assert found == rows("docstrings", "networkx", limit=30)
    starts = [(row["module"].split(":")[1], re.split(r"library|`|\*", row["text"])[0][:40]) for row in found]
    shown = [any(start in text for text in shown_docstrings(import_module(module))) for module, start in starts]
    assert sum(shown) >= 28  # parsing also sees functions inside functions, which importing does not show


def shown_docstrings(module: object) -> list[str]:
    classes = [member for _, member in inspect.getmembers(module, inspect.isclass)]
    members = [module, *(m for owner in (module, *classes) for _, m in inspect.getmembers(owner))]
    texts = [getattr(member, "__doc__", None) for member in members]
    texts += [m.fget.__doc__ for c in classes for m in vars(c).values() if isinstance(m, property)]
    return [re.sub("[`*]", "", " ".join(inspect.cleandoc(text).split())) for text in texts if isinstance(text, str)]


def test_code_and_fragments_do_not_read_like_english() -> None:
    assert reads_like_english("This is the text of a sentence that has enough words to be one of the passages.")
    assert not reads_like_english("This is the text of a sentence.")
    assert not reads_like_english("x = 1 y = 2 z = 3 (a, b) -> c [1, 2] {3} the of to and 4 5 6 7 8 9 10 11 12 13 14")


@pytest.mark.slow
def test_the_quickstart_has_the_rows_it_promises(quickstart: Recipe) -> None:
    labels = {name: dataset.source for name, dataset in quickstart.datasets.items()}
    docstrings, comments = labels["docstrings"], labels["comments"]
    assert isinstance(docstrings, InstalledText)
    assert isinstance(comments, InstalledText)
    assert docstrings.libraries == comments.libraries
    masked = masking(name for library in docstrings.libraries for name in Library(library).names())
    for source, least in ((docstrings, 3000), (comments, 1600)):
        counts: dict[str, int] = {}
        for row in source.read(source.pin(), 10**6):
            assert isinstance(row, Row)
            counts[str(row.values["library"])] = counts.get(str(row.values["library"]), 0) + 1
            assert not masked.search(str(row.values["text"]).replace("library", ""))
        assert len(counts) >= 10
        assert sum(counts.values()) >= least
        assert max(counts.values()) < 0.15 * sum(counts.values())


@pytest.fixture
def quickstart() -> Recipe:
    import yaml

    path = Path(__file__).parents[4] / "recipes" / "quickstart.yaml"
    return Recipe.model_validate(yaml.safe_load(path.read_text()))
