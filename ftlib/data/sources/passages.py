"""English passages of installed libraries: from docstrings and comments, never imported, and package descriptions.

Everything depends on the installed versions alone: the same lock gives the same passages in the same order.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, cast

from ftlib.data.cleaning import clean
from ftlib.data.identity import text_key
from ftlib.data.listed import FileVersion
from ftlib.errors import DataError
from ftlib.fingerprint import digest

MASK = "library"
"""What stands for a masked name."""

_MIN_WORDS = 12
_MIN_FUNCTION_WORDS = 3
_PER_MODULE = 12
"""Passages of one module: no file dominates its library."""
_LARGEST_FILE = 60_000
"""Bytes: the few giants cost most of the time."""
_NOT_OWN_PROSE = {
    *("test", "tests", "testing", "_testing", "conftest.py", "benchmarks", "examples", "setup.py"),
    *("vendor", "vendored", "_vendor", "_vendored", "vendored_packages", "third_party", "thirdparty_files"),
    *("extern", "externals", "external", "_extern"),
}
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been by can for from has have if in into is it its may not of on or should so than "
        "that the their them then there these they this to was we when where whether which will with you your",
    )
)
# Names that the package's metadata does not tell: what its users write, and its makers' brand.
_ALIASES = {
    "huggingface-hub": ("hugging face", "hf"),
    "matplotlib": ("mpl", "plt", "pyplot"),
    "networkx": ("nx",),
    "numpy": ("np",),
    "pandas": ("pd",),
    "pyarrow": ("pa", "arrow"),
    "scikit-learn": ("scikit",),
    "sqlalchemy": ("sa",),
    "torch": ("aten",),
}


class Passage(NamedTuple):
    """One passage, not masked yet."""

    text: str
    module: str
    line: int


class Library:
    """An installed library, as its installer recorded it."""

    def __init__(self, name: str) -> None:
        """Read the record. Raises DataError if the library is not installed, or without a list of its files."""
        self.name = name
        try:
            self._distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise DataError(f"libraries: {name!r} is not installed here; install it or take it out") from error
        # `Distribution.files` makes a path object of every one of torch's 12,000 files; the record itself is a table.
        record = csv.reader((self._distribution.read_text("RECORD") or "").splitlines())
        self._files = [_File(*entry) for entry in sorted(record) if entry[0].endswith((".py", "/METADATA"))]
        if not self._files:
            raise DataError(f"libraries: {name!r} has no list of its files (RECORD); reinstall it with pip")

    def pin(self) -> FileVersion:
        """Identify the library by its version and the hashes its installer recorded."""
        uri = f"installed:{self.name}=={self._distribution.version}"
        size = sum(int(file.size or 0) for file in self._files)
        return FileVersion(uri=uri, bytes=size, sha256=digest([[file.path, file.hash] for file in self._files]))

    def names(self) -> set[str]:
        """Return what the library is called: by its installer, in imports, and by its users."""
        tops = {file.path.split("/")[0].removesuffix(".py").lower() for file in self._files}
        return {self.name.lower(), *filter(str.isidentifier, tops), *_ALIASES.get(self.name, ())}

    def docstrings(self, limit: int) -> Iterator[Passage]:
        """Yield at most `limit` passages that read like English, from modules in the order of their paths' hashes."""
        return self._passages(_module_docstrings, limit)

    def comments(self, limit: int) -> Iterator[Passage]:
        """Yield at most `limit` paragraphs of comments that have lines of their own, in the same order of modules."""
        return self._passages(_module_comments, limit)

    def _passages(self, of_module: Callable[[Path, str], Iterator[Passage]], limit: int) -> Iterator[Passage]:
        seen: set[bytes] = set()
        for file in sorted(self._files, key=lambda file: hashlib.sha256(file.path.encode()).digest()):
            path, parts = Path(str(self._distribution.locate_file(file.path))), file.path.split("/")
            if not file.path.endswith(".py") or _NOT_OWN_PROSE.intersection(parts) or ".." in parts:
                continue
            if int(file.size or 0) > _LARGEST_FILE or not path.is_file():
                continue
            module = ".".join(parts).removesuffix(".py").removesuffix(".__init__")
            fresh = [p for p in of_module(path, module) if text_key(p.text) not in seen]
            distinct = {text_key(passage.text): passage for passage in reversed(fresh)}
            chosen = list(reversed(distinct.items()))[: min(_PER_MODULE, limit - len(seen))]
            seen.update(key for key, _ in chosen)
            yield from (passage for _, passage in chosen)
            if len(seen) == limit:
                return

    def readme(self, limit: int) -> Iterator[Passage]:
        """Yield at most `limit` paragraphs of the package's long description, without its change log."""
        message = cast("Message", self._distribution.metadata)
        body = str(message.get_payload() or message.get("Description") or "")
        seen: set[bytes] = set()
        for line, block in _blocks(body):
            text = clean(_plain(block))
            if len(seen) < limit and reads_like_english(text) and (key := text_key(text)) not in seen:
                seen.add(key)
                yield Passage(text, "README", line)


class _File(NamedTuple):
    path: str
    hash: str
    size: str


def reads_like_english(text: str) -> bool:
    """Say whether a text has enough words, enough of those that only sentences need, and is no licence."""
    words = re.findall(r"[A-Za-z]+(?:'[a-z]+)?", text)
    tokens = text.split()
    if len(words) < _MIN_WORDS or sum(token[0].isalpha() for token in tokens) < 0.7 * len(tokens):
        return False
    if "copyright" in text.lower():
        return False
    return len(_FUNCTION_WORDS.intersection(word.lower() for word in words)) >= _MIN_FUNCTION_WORDS


def masking(names: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches these names wherever they are part of an identifier path, and the whole path.

    Long names match inside identifiers too (`torch` in `PyTorch` and `torch_dtype`), short ones as whole words only
    (`np.sum`, not `input`).
    """
    patterns = sorted((re.sub(r"[-_\s]+", r"[-_\\s]*", name) for name in names), key=lambda p: (-len(p), p))
    inside = "|".join(rf"\w*{p}\w*" for p in patterns if len(p) >= 5)
    whole = "|".join(p for p in patterns if len(p) < 5)
    either = "|".join(filter(None, (inside, whole)))
    return re.compile(rf"(?<![\w.])(?:\w+\.)*(?:{either})(?!\w)(?:\.\w+)*", re.IGNORECASE)


def _module_docstrings(path: Path, module: str) -> Iterator[Passage]:
    source = path.read_bytes()
    if source.count(b'"""') < 2:  # worth asking first: parsing is nearly all of the time
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):  # templates that end in .py and are no Python hold no docstrings
            return
    for node in _definitions(tree):
        text = _first_paragraph(ast.get_docstring(node) or "")
        if reads_like_english(text):
            yield Passage(text, module, getattr(node, "lineno", 1))


# Strings are matched to be passed over: docstrings hold lines that begin with a hash, too.
_COMMENTS = re.compile(
    r"""(?P<lines>(?:^[ \t]*\#[^\n]*\n)+)|\#[^\n]*"""
    r"""|(?s:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3})"""
    r"""|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""",
    re.M,
)
_LICENCE = re.compile(r"licen[cs]e|warrant", re.I)


def _module_comments(path: Path, module: str) -> Iterator[Passage]:
    source = path.read_text(encoding="utf-8", errors="replace")
    for comment in _COMMENTS.finditer(source):
        if not comment["lines"]:
            continue
        first = source.count("\n", 0, comment.start())
        body = "\n".join(line.strip().lstrip("#!").removeprefix(" ") for line in comment["lines"].splitlines())
        for line, block in _blocks(body):
            text = clean(_plain(block))
            if reads_like_english(text) and not _LICENCE.search(text):
                yield Passage(text, module, first + line)


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: _Documented) -> Iterator[_Documented]:
    yield node
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _definitions(child)


def _first_paragraph(docstring: str) -> str:
    """Return the first paragraph that is prose; with the next one if it is shorter than a passage."""
    text = ""
    for block in re.split(r"\n\s*\n", docstring):
        if (
            re.match(r"\s*(>>>|\.\. |:\w+|[-=*#|]|Args|Arguments|Parameters|Returns|Examples?\b)", block)
            or "\n--" in block
        ):
            break
        text = f"{text} {clean(_plain(block))}".strip()
        if len(text.split()) >= _MIN_WORDS:
            break
    return text


_CHANGE_LOG = re.compile(r"^#*\s*(change ?log|changes|release (notes|history)|history|what'?s changed)\W*$", re.I)
_FENCE = re.compile(r"^\s*(```|~~~)")
_HEADING = re.compile(r"^\s*(#{1,6}\s|[-=~^\"'*+`#]{3,}\s*$)")
_LIST_ITEM = re.compile(r"^\s*([-*+•]|\d+[.)])\s+")


def _blocks(body: str) -> Iterator[tuple[int, str]]:
    """Split markdown or reStructuredText into paragraphs and list items, without code, tables, headings and HTML."""
    body = re.sub(r"<!--.*?-->", lambda m: "\n" * m[0].count("\n"), body, flags=re.S)
    lines, start, fenced = list[str](), 0, False
    for number, line in enumerate([*body.splitlines(), ""], start=1):
        if _CHANGE_LOG.match(line):
            break
        fenced ^= bool(_FENCE.match(line))
        ends = fenced or not line.strip() or _HEADING.match(line) or _FENCE.match(line)
        if (ends or _LIST_ITEM.match(line)) and lines:
            yield start, "\n".join(lines)
            lines = []
        if not ends:
            start = start if lines else number
            lines.append(line)
    if lines:
        yield start, "\n".join(lines)


def _plain(block: str) -> str:
    """Return a paragraph's words: no links, images, roles, emphasis, HTML; nothing for code, directives and tables."""
    first = block.lstrip("\n")
    if first.startswith((".. ", "::", "$ ", ">>> ", "|-", "| -")) or re.match(r"^( {4}|\t)(?!\s*[-*\d])", first):
        return ""
    if all(line.strip().startswith("|") and line.strip().endswith("|") for line in block.strip().splitlines()):
        return ""
    text = _LIST_ITEM.sub("", re.sub(r"^\s*\| ", "", block, flags=re.M))
    text = re.sub(r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])", " ", text)  # images and badges
    text = re.sub(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])", r"\1", text)  # markdown links
    text = re.sub(r"`([^`<]+?)\s*<[^>`]+>`_{0,2}", r"\1", text)  # reStructuredText links
    text = re.sub(r":[\w:+-]+:`~?!?\.?([^`]*)`", r"\1", text)  # roles
    text = re.sub(r"<[^>\s][^>]*>", " ", text)
    text = re.sub(r"\b(https?://|www\.)\S+", " ", text)
    return re.sub(r"\*\*|__|``?`?|`_{0,2}|(?<!\w)\*|\*(?!\w)", "", text)
