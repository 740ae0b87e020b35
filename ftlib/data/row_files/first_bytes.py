"""Tell by a file's first bytes that it is not what its name says; asked once a file, before its first row."""

from __future__ import annotations

import codecs
import re
import shlex
import unicodedata
from pathlib import Path
from typing import NamedTuple

from ftlib.data.listed import FileVersion
from ftlib.errors import DataError

BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


class _Known(NamedTuple):
    what: str
    remedy: str = ""
    suffix: str = ""
    """What a file of this kind is called, where it can be read."""


_COMPRESSED = "compressed"
_WRITE = "write its rows as jsonl or parquet"
_FORMATS: tuple[tuple[re.Pattern[bytes], _Known], ...] = tuple(
    (re.compile(mark, re.DOTALL | re.IGNORECASE if mark.startswith(rb"\s*<") else re.DOTALL), known)
    for mark, known in (
        (re.escape(_GZIP), _Known("compressed with gzip", suffix=".gz")),
        (re.escape(_ZSTD) + rb"|[\x50-\x5f]\x2a\x4d\x18", _Known("compressed with zstd", suffix=".zst")),
        (rb"BZh[1-9]1AY&SY", _Known("compressed with bzip2", "unpack it; only gzip and zstd are unpacked here")),
        (rb"\xfd7zXZ\0", _Known("compressed with xz", "unpack it; only gzip and zstd are unpacked here")),
        (rb"\x04\x22\x4d\x18", _Known("compressed with lz4", "unpack it; only gzip and zstd are unpacked here")),
        (rb"\xff\x06\0\0sNaPpY", _Known("compressed with snappy", "unpack it; only gzip and zstd are unpacked here")),
        # A csv may have a column that is called PAR1, ORC or FEA1: only the format has such bytes after it.
        (rb"PAR1.{0,64}[\0-\x08\x0e-\x1f]", _Known("parquet", suffix=".parquet")),
        (rb"PARE.{0,64}[\0-\x08\x0e-\x1f]", _Known("encrypted parquet", "write it without encryption")),
        (rb"ARROW1\0|FEA1.{0,64}[\0-\x08\x0e-\x1f]", _Known("an Arrow (Feather) file", "write it as parquet")),
        (rb"\xff\xff\xff\xff", _Known("an Arrow stream", "write it as parquet")),
        (rb"ORC.{0,64}[\0-\x08\x0e-\x1f]", _Known("an ORC file", "write it as parquet")),
        (rb"Obj\x01", _Known("an Avro file", _WRITE)),
        (
            rb"SQLite format 3\0",
            _Known("a SQLite database", "export the table: sqlite3 -csv -header FILE 'select * from TABLE' > new.csv"),
        ),
        (rb".{8}DUCK", _Known("a DuckDB database", _WRITE)),
        (rb"\xd0\xcf\x11\xe0", _Known("an old Excel or Office file", "save it as csv in UTF-8")),
        (rb"PK\x03\x04.{0,4000}(\[Content_Types\]\.xml|xl/)", _Known("an Excel workbook", "save it as csv in UTF-8")),
        (rb"PK[\x03\x05]", _Known("a zip archive", "unpack it")),
        (rb"7z\xbc\xaf\x27\x1c", _Known("a 7z archive", "unpack it")),
        (rb"Rar!\x1a", _Known("a rar archive", "unpack it")),
        (rb".{257}ustar", _Known("a tar archive", "unpack it")),
        (rb"%PDF-", _Known("a PDF", _WRITE)),
        (rb"\x93NUMPY", _Known("a numpy array", _WRITE)),
        (rb"\x89HDF\r\n", _Known("an HDF5 file", _WRITE)),
        (rb"\x80[\x02-\x05]", _Known("a Python pickle, which is never opened", _WRITE)),
        (rb"\x89PNG|\xff\xd8\xff|GIF8[79]a", _Known("a picture", "take it out of the source")),
        (
            rb"version https://git-lfs\.github\.com/",
            _Known("a git-lfs pointer to the rows", "fetch them: git lfs pull"),
        ),
        (rb"(\.\./)*(\.git)?/annex/objects/", _Known("a git-annex pointer to the rows", "fetch them: git annex get")),
        (
            rb"\s*<(!doctype\s+html|html[\s>]|head[\s>]|body[\s>])",
            _Known("an HTML page and no rows, as a download that failed or needs a login leaves", "fetch it again"),
        ),
        (rb"\s*<\?xml\s", _Known("an XML document and no rows, as a store sends for an error", "fetch it again")),
    )
)


def refuse_other_text(head: bytes, uri: str) -> None:
    """Raise DataError if a text file's first bytes, unpacked, are no UTF-8 text in lines."""
    content = _known(head) or _other_encoding(head, uri) or _other_lines(head, uri)
    if content is not None:
        remedy = content.remedy or f"rename it so that its name ends with {content.suffix}"
        if packing(uri) and content.suffix:
            again = content.what.startswith(_COMPRESSED)
            remedy = "unpack it once" if again else f"unpack it, and let its name end with {content.suffix}"
        raise DataError(f"{uri} {'unpacks to what is' if packing(uri) else 'is'} {content.what}; {remedy}")


def refuse_packed_within(line: bytes, uri: str, number: int) -> None:
    """Raise DataError if compressed bytes begin in a line that is not UTF-8, as where files were put together.

    The rest of the file would be a few broken lines, however many rows are in it.
    """
    for mark, packed in ((_GZIP + b"\x08", "gzip"), (_ZSTD, "zstd")):
        if mark in line:
            raise DataError(
                f"{uri}:{number}: bytes compressed with {packed} begin within the text; unpack that part, and put the "
                "texts together"
            )


def wide_line(line: bytes) -> str | None:
    """Return the encoding of a line that is UTF-16 or UTF-32 as its zeros tell; None for others, one lone NUL too."""
    if line.count(0) * 4 < len(line):
        return None
    even, odd = line[::2].count(0), line[1::2].count(0)
    if line[1::4].count(0) and line[2::4].count(0):
        return "UTF-32"
    return "UTF-16LE" if odd >= even else "UTF-16BE"


def refuse_other_packing(head: bytes, uri: str) -> None:
    """Raise DataError if a file is not compressed as its name says; an empty one has no rows."""
    named = packing(uri)
    content = _known(head)
    if not head or not named or (content and content.what.endswith(named)):
        return
    suffix = ".gz" if named == "gzip" else ".zst"
    if content:
        remedy = content.remedy or f"let its name end with {content.suffix} instead of {suffix}"
        as_said = f"with {named}" if content.what.startswith(_COMPRESSED) else f"compressed with {named}"
        raise DataError(f"{uri} is {content.what}, not {as_said} as its name says; {remedy}")
    if is_text(head):
        raise DataError(
            f"{uri} is plain text, not compressed with {named} as its name says; take {suffix} off its name"
        )
    raise DataError(f"{uri} is a damaged {named} file: it does not begin like one; write it again")


def refuse_other_table(file: FileVersion) -> None:
    """Raise DataError if a file that is called parquet is of another known format, or text."""
    try:
        with Path(file.uri).open("rb") as stream:
            head = stream.read(4096)
    except OSError:
        return  # the reader says what the system says
    content = _known(head)
    if not head or head.startswith(_PARQUET):
        return
    if content:
        remedy = (
            content.remedy or f"let its name end with .jsonl{content.suffix} or .csv{content.suffix}, whichever it is"
        )
        raise DataError(f"{file.uri} is {content.what}, not parquet as its name says; {remedy}")
    if is_text(head):
        json = head.removeprefix(BOM).lstrip().startswith((b"{", b"["))
        suffix = ".jsonl" if json else ".csv, if csv is what it is"
        raise DataError(
            f"{file.uri} is {'JSON' if json else 'plain'} text, not parquet as its name says; let its name end with "
            f"{suffix}"
        )


def packing(uri: str) -> str:
    """Return with what a file is compressed by its name; nothing for one that is not."""
    name = uri.lower()
    return "gzip" if name.endswith(".gz") else "zstd" if name.endswith(".zst") else ""


def converted(uri: str, command: str) -> str:
    """Return a shell line that sends a file's text through a command into a new file."""
    new = "new.csv" if ".csv" in uri.lower() else "new.jsonl"
    name = shlex.quote(uri)
    unpack = {"gzip": "gzip -dc", "zstd": "zstd -dc"}.get(packing(uri))
    return f"{unpack} {name} | {command} > {new}" if unpack else f"{command} < {name} > {new}"


def is_text(head: bytes) -> bool:
    """Return whether a head has no byte that texts do not have."""
    return re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head[:1024]) is None


def _known(head: bytes) -> _Known | None:
    return next((content for mark, content in _FORMATS if mark.match(head)), None)


def _other_encoding(head: bytes, uri: str) -> _Known | None:
    if encoding := _wide_encoding(head):
        command = converted(uri, f"iconv -f {encoding} -t UTF-8")
        return _Known(f"{encoding}, allowed is UTF-8", f"convert it: {command}")
    if head and not head.strip(b"\0"):
        return _Known("nothing but NUL bytes at its beginning, as a write that was cut short leaves", "write it again")
    return None


def _wide_encoding(head: bytes) -> str | None:
    """Tell UTF-16 and UTF-32 by their mark, or by where the zeros of their ASCII characters are."""
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    sample = head[: min(len(head), 4096) // 4 * 4]
    if not sample.count(0):
        return None
    zeros = [sample[offset::4].count(0) * 4 / len(sample) for offset in range(4)]
    if min(zeros[2:]) > 0.9 > 0.1 > zeros[0]:
        return "UTF-32LE"
    if min(zeros[:2]) > 0.9 > 0.1 > zeros[3]:
        return "UTF-32BE"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    name, most, least = ("UTF-16LE", odd, even) if odd > even else ("UTF-16BE", even, odd)
    clear, lines = most > 0.4 and least < most / 4, "\n" in sample.decode(name, "ignore")
    if clear or (lines and most > 0.1 and least < most * 0.7):
        return name
    # Of Chinese or Japanese only the line breaks and commas have a zero; whatever else has one is no UTF-16 throughout.
    return next((name for name in ("UTF-16LE", "UTF-16BE") if _reads(sample, name)), None)


def _reads(sample: bytes, encoding: str) -> bool:
    """Say whether bytes are text of several lines in an encoding, without a character that texts do not have."""
    try:
        text = codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    return "\n" in text and all(unicodedata.category(c) not in ("Cc", "Cn", "Co") or c in "\t\r\n" for c in text)


def _other_lines(head: bytes, uri: str) -> _Known | None:
    # The last byte does not count: the head may end between CR and LF.
    if b"\n" in head or b"\r" not in head[:-1]:
        return None
    command = converted(uri, r"tr '\r' '\n'")
    return _Known("text whose lines end with CR alone, allowed are LF and CRLF", f"convert it: {command}")
