from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.listed import PinnedAlready
from ftlib.data.rows import Row
from ftlib.data.sources.files import Files
from ftlib.errors import DataError, RecipeError, StorageError
from ftlib.storage import objects
from ftlib.testing import write_jsonl


def names(source: Files) -> list[str]:
    return [Path(file.uri).name for file in source.pin()]


def test_a_folder_lists_rows_below_it_and_nothing_hidden(tmp_path: Path) -> None:
    for name in ("a.jsonl", "deep/b.csv", "c.parquet", "d.jsonl.gz", "notes.txt", ".e.jsonl", "_f.csv", "_tmp/g.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert sorted(names(Files(path=str(tmp_path)))) == ["a.jsonl", "b.csv", "c.parquet", "d.jsonl.gz"]


def test_a_glob_and_a_single_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.csv"):
        (tmp_path / name).write_text("x")
    assert names(Files(path=f"{tmp_path}/*.jsonl")) == ["a.jsonl", "b.jsonl"]
    monkeypatch.chdir(tmp_path)
    (pinned,) = Files(path="c.csv").pin()
    assert pinned.uri == str(tmp_path / "c.csv")
    assert (pinned.bytes, pinned.sha256) == (1, hashlib.sha256(b"x").hexdigest())


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows[1].jsonl").write_text("x")
    assert names(Files(path=str(tmp_path / "rows[1].jsonl"))) == ["rows[1].jsonl"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jsonl", "no such file or folder"),
        ("absent/", "no such file or folder"),
        ("~nobody-of-this-name/rows.jsonl", "no such file or folder"),
        ("*.parquet", "no file matches this glob"),
        (".", r"no \.jsonl, .* file in this folder"),
        ("notes.txt", r"suffix '\.txt', allowed are"),
    ],
)
def test_nothing_to_read_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=message) as caught:
        Files(path=path).pin()
    assert "\n" not in str(caught.value)


def test_the_order_of_rows_does_not_depend_on_names(tmp_path: Path) -> None:
    one, two = write_jsonl(tmp_path / "1.jsonl", [{"n": 1}]), write_jsonl(tmp_path / "2.jsonl", [{"n": 2}])
    source = Files(path=str(tmp_path))
    before = [row.values for row in source.read(source.pin(), 100) if isinstance(row, Row)]
    os.rename(one, tmp_path / "9.jsonl")
    os.rename(two, tmp_path / "0.jsonl")
    assert [row.values for row in source.read(source.pin(), 100) if isinstance(row, Row)] == before


def waiting(source: Files) -> list[str]:
    return [Path(file.uri).name for file in source.list() if not file.settled]


def test_a_listing_reads_nothing_and_its_token_changes_with_the_bytes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "1.jsonl", [{"n": 1}])
    path.chmod(0)
    source = Files(path=str(tmp_path))
    before = source.list()
    assert source.list() == before
    path.chmod(0o600)
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    assert source.list()[0].bytes == before[0].bytes
    assert source.list() != before


def test_only_what_is_not_known_is_read(tmp_path: Path) -> None:
    old, _ = (write_jsonl(tmp_path / f"{n}.jsonl", [{"n": n}]) for n in (1, 2))
    source = Files(path=str(tmp_path))
    first = source.pin()
    known = PinnedAlready({(first[0].uri, first[0].version, first[0].bytes): "remembered"}, at=time.time() + 60)
    assert [file.sha256 for file in source.pin(known=known)] == ["remembered", first[1].sha256]
    os.utime(old, (2, 2))
    assert source.pin(known=known)[0].sha256 == first[0].sha256


def test_what_was_written_since_or_just_before_is_read_again_whatever_its_date_says(tmp_path: Path) -> None:
    """Git calls it racily clean: a second write in the same tick, or under a date that was put back, looks the same."""
    path = write_jsonl(tmp_path / "1.jsonl", [{"n": 1}])
    source = Files(path=str(path))
    (first,) = source.pin()
    known = PinnedAlready({(first.uri, first.version, first.bytes): first.sha256}, at=time.time())
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    os.utime(path, ns=(0, status.st_mtime_ns))
    (second,) = source.pin(known=known)
    assert (second.version, second.bytes) == (first.version, first.bytes)
    assert second.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() != first.sha256


def test_a_file_that_changes_between_listing_and_pinning_is_told(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "1.jsonl", [{"n": 1}])
    source = Files(path=str(tmp_path))
    listed = source.list()
    write_jsonl(path, [{"n": 1}, {"n": 2}])
    with pytest.raises(DataError, match="changed since it was listed"):
        source.pin(listed)


def test_young_files_wait_and_a_clock_that_was_set_does_not_hold_them_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in (1, 2):
        write_jsonl(tmp_path / f"{n}.jsonl", [{"n": n}])
    os.utime(tmp_path / "1.jsonl", (1, 1))  # a copy with its original's date is as young as it is
    patient = Files(path=str(tmp_path), settle_seconds=60)
    assert waiting(patient) == ["1.jsonl", "2.jsonl"]
    with pytest.raises(DataError, match=r"all 2 files may still be written \(settle_seconds: 60"):
        patient.pin()
    real = time.time
    for shift in (100, -100_000):
        monkeypatch.setattr(time, "time", lambda s=shift: real() + s)
        assert waiting(patient) == []


def test_the_files_of_a_folder_wait_for_its_marker(tmp_path: Path) -> None:
    for name in ("a/1.jsonl", "b/2.jsonl"):
        write_jsonl(tmp_path / name, [{"n": 1}])
    (tmp_path / "a" / "_SUCCESS").touch()
    for path in (tmp_path, tmp_path / "*" / "*.jsonl"):
        source = Files(path=str(path), marker="_SUCCESS")
        assert waiting(source) == ["2.jsonl"]
        assert [Path(file.uri).name for file in source.pin()] == ["1.jsonl"]
    assert waiting(Files(path=str(tmp_path / "b" / "2.jsonl"), marker="_SUCCESS")) == ["2.jsonl"]


def test_what_is_hidden_or_unfinished_is_left_out_of_globs_too_unless_it_is_asked_for(tmp_path: Path) -> None:
    for name in ("a.jsonl", "_b.jsonl", ".c.jsonl", "d.jsonl.tmp", "_t/e.jsonl", "x/f.jsonl"):
        write_jsonl(tmp_path / name, [{"n": 1}])
    os.symlink(tmp_path / "nowhere", tmp_path / ".dangling.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert names(Files(path=f"{tmp_path}/**/*.jsonl*")) == ["a.jsonl", "f.jsonl"]
    assert names(Files(path=f"{tmp_path}/_*.jsonl")) == ["_b.jsonl"]
    assert names(Files(path=f"{tmp_path}/_b.jsonl")) == ["_b.jsonl"]


def rows_below(folder: Path) -> set[str]:
    """What a folder holds by another way: os.walk through the links, the ends of the links counted once."""
    found, walked = set[str](), set[str]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] not in "._" and not name.endswith(".tmp")]
        folders[:] = [name for name in folders if os.path.realpath(Path(parent, name)) not in walked]
        walked |= {os.path.realpath(Path(parent, name)) for name in folders}
        found |= {os.path.realpath(Path(parent, name)) for name in files if name.endswith(".jsonl") and name[0] != "_"}
    return found


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder as DVC, git-annex and the Hugging Face cache make them, with every loop a link can close."""
    names = ("rows/a.jsonl", "rows/b/c.jsonl", "rows/b/_no.jsonl", "store/x/d.jsonl", "store/x/y/e.jsonl", "f.jsonl")
    for n, name in enumerate(names):
        write_jsonl(tmp_path / name, [{"n": n}])
    rows = tmp_path / "rows"
    links = {
        "link": "../store/x", "again": "../store/x", "deeper": "../store/x/y", "f.jsonl": "../f.jsonl",
        "2.jsonl": "a.jsonl", "b/up": "..", "self": ".", ".hidden": "../store", "b/b": "../b",
    }  # fmt: skip
    for name, target in links.items():
        os.symlink(target, rows / name)
    os.symlink("../../rows", tmp_path / "store" / "x" / "back")
    os.symlink(rows, tmp_path / "all")
    return rows


def test_links_are_followed_and_no_row_is_read_twice_however_the_folder_is_asked_for(linked: Path) -> None:
    expected = rows_below(linked)
    assert {Path(name).name for name in expected} == {"a.jsonl", "c.jsonl", "d.jsonl", "e.jsonl", "f.jsonl"}
    asked = (linked, linked / "**", linked / "**" / "*.jsonl", linked.parent / "all", linked.parent / "r*" / "**")
    for path in asked:
        source = Files(path=str(path))
        listed = source.list()
        assert {os.path.realpath(file.uri) for file in listed} == expected, path
        assert sorted(row.values["n"] for row in source.read(source.pin(), 99) if isinstance(row, Row)) == [
            0,
            1,
            3,
            4,
            5,
        ]
    kept = {Path(file.uri).relative_to(linked).as_posix() for file in Files(path=str(linked)).list()}
    assert kept == {"a.jsonl", "again/d.jsonl", "b/c.jsonl", "again/y/e.jsonl", "f.jsonl"}  # names without links first
    assert names(Files(path=f"{linked}/*/d.jsonl")) == ["d.jsonl"]
    assert names(Files(path=f"{linked}/**/y/*.jsonl")) == ["e.jsonl"]


@pytest.mark.parametrize("target", ["../store/gone", "round"])
@pytest.mark.parametrize("name", ["round", "rows.jsonl", "b/round"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, name: str, target: str) -> None:
    write_jsonl(tmp_path / "rows" / "b" / "a.jsonl", [{"n": 1}])
    link = tmp_path / "rows" / name
    os.symlink(target, link)
    inside = link.relative_to(tmp_path / "rows")
    for path in ("rows", "rows/**/*.jsonl", f"rows/{'/'.join('*' for _ in inside.parts)}", f"rows/{name}"):
        with pytest.raises(DataError, match=f"{link} is a link to {target}, which is not there") as caught:
            Files(path=f"{tmp_path}/{path}").list()
        assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_named_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.jsonl", "b/2.jsonl"):
        write_jsonl(tmp_path / name, [{"n": 1}])
    real = os.scandir

    def refuse(path: Any) -> Any:  # root may read everything
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for path in ("", "**/*.jsonl", "*/*.jsonl"):
        with pytest.raises(DataError, match="/b: Permission denied; make it readable"):
            Files(path=f"{tmp_path}/{path}").list()


ODD = ("data [v1]", "data v", "[ab]", "a", "a{b,c}", "50%20 off", "what?", "sta*r", "!x", "line\nbreak", "é (1)", "~")


def test_a_part_of_the_path_that_is_there_is_no_pattern(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ODD:
        for n, name in enumerate(ODD):
            write_jsonl(tmp_path / folder / f"{name}.jsonl", [{"n": n}])
    for folder in ODD[:-1]:
        for path in (folder, f"{folder}/*.jsonl", f"{folder}/**", f"./{folder}/**/*"):
            assert {Path(file.uri).parent.name for file in Files(path=path).list()} == {folder}
            assert len(Files(path=path).list()) == len(ODD)
        for name in ODD:
            (one,) = Files(path=f"{folder}/{name}.jsonl").list()
            assert one.uri == str(tmp_path / folder / f"{name}.jsonl")
            assert {Path(file.uri).name for file in Files(path=f"*/{name}.jsonl").list()} == {f"{name}.jsonl"}
    assert len(Files(path=".").list()) == len(Files(path="**/*.jsonl").list()) == len(ODD) ** 2
    assert {Path(file.uri).parent.name for file in Files(path="data [uv]/*.jsonl").list()} == {"data v"}
    with pytest.raises(DataError, match="no such file or folder"):
        Files(path="data [v1]/absent.jsonl").list()


def test_a_misspelt_path_is_told_the_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows" / "tickets.jsonl", [{"n": 1}])
    for asked in ("rows/tickts.jsonl", "row/tickets.jsonl"):
        with pytest.raises(DataError, match=r"\(looked in .*\); did you mean 'rows/tickets.jsonl'\?$"):
            Files(path=asked).list()
    for asked in ("rows/else.jsonl", "row/else.jsonl", "nowhere/at/all.jsonl"):
        with pytest.raises(DataError, match=r"\(looked in .*\); correct the path$"):
            Files(path=asked).list()


def test_a_name_that_is_not_utf8_is_one_line_and_only_where_rows_bear_it(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows" / "a.jsonl", [{"n": 1}])
    odd = os.path.join(os.fsencode(tmp_path), b"rows", b"caf\xe9")
    os.mkdir(odd)
    Path(os.fsdecode(odd), "notes.txt").touch()
    assert names(Files(path=f"{tmp_path}/rows")) == ["a.jsonl"]
    write_jsonl(Path(os.fsdecode(odd), "b.jsonl"), [{"n": 1}])
    for path in ("rows", "rows/*/*"):
        with pytest.raises(DataError, match=r"caf\\xe9/.*: the name is not UTF-8; rename"):
            Files(path=f"{tmp_path}/{path}").list()


def test_a_pipe_and_a_device_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", "/dev/null"):
        with pytest.raises(DataError, match="is neither a file nor a folder"):
            Files(path=str(path)).list()


@pytest.fixture
def s3(bucket: Any, s3_endpoint: str) -> Any:
    def source(key: str, **fields: Any) -> Files:
        return Files(path=f"s3://{bucket.name}/{key}", endpoint_url=s3_endpoint, **fields)

    return source


KEYS = (
    "rows/a.jsonl", "rows/day=1/b.jsonl.gz", "rows/day=2/c:1.jsonl", "rows/day=2/d.jsonl", "rows/_tmp/e.jsonl",
    "rows/.f.jsonl", "rows/g.jsonl.tmp", "rows/notes.txt", "rows-old/h.jsonl", "rows/empty/",
)  # fmt: skip


def test_a_prefix_a_glob_and_an_object_of_a_bucket(bucket: Any, s3: Any) -> None:
    for key in KEYS:
        bucket.put_object(Key=key, Body=b'{"n": 1}\n')
    inside = ["a.jsonl", "b.jsonl.gz", "c:1.jsonl", "d.jsonl"]
    for key in ("rows/", "rows"):
        assert names_of(s3(key)) == inside
    assert names_of(s3("rows/day=*/*")) == inside[1:]
    assert names_of(s3("rows/**/*.jsonl")) == ["a.jsonl", "c:1.jsonl", "d.jsonl"]
    assert names_of(s3("rows*/?.jsonl")) == ["h.jsonl", "a.jsonl"]
    assert names_of(s3("rows/day=2/c:1.jsonl")) == ["c:1.jsonl"]
    assert names_of(s3("")) == ["h.jsonl", *inside]
    for key, message in {
        "absent/": "no such file or folder", "row": "no such file or folder", "rows/*.csv": "no file matches this glob",
        "rows/notes.txt": r"suffix '\.txt', allowed are", "rows/_tmp2/": "no such",
    }.items():  # fmt: skip
        with pytest.raises(DataError, match=message):
            s3(key).list()


def test_a_bucket_and_a_folder_answer_alike(bucket: Any, s3: Any, tmp_path: Path) -> None:
    keys = [
        "data [v1]/rows (1).jsonl", "data [v1]/b[2].jsonl", "data v/x.jsonl", "data v/b2.jsonl", "_t/a.jsonl",
        "x/_y/a.jsonl", "x/.y/a.jsonl", "x/z.tmp/a.jsonl", "x/what?.jsonl", "x/whats.jsonl",
        "50%20/a+b.jsonl", "é/{a}.jsonl",
    ]  # fmt: skip
    for key in keys:
        bucket.put_object(Key=f"top/{key}", Body=b"{}")
        write_jsonl(tmp_path / "top" / key, [{}])
    asked = [
        "", "**", "**/*.jsonl", "data [v1]", "data [v1]/", "data [v1]/*.jsonl", "data [v1]/b[2].jsonl", "data [uv]/*",
        "*/b[2].jsonl", "_*/*.jsonl", "*/_y/*", "**/_y/*.jsonl", "**/.y/*", "*/z.tmp/a.jsonl", "*/what?.jsonl",
        "x/what?.jsonl", "50%20/*", "é/{a}.jsonl", "**/x/**", "d*[ ]v/**",
    ]  # fmt: skip
    for pattern in asked:
        here = [file.uri.removeprefix(f"{tmp_path}/") for file in Files(path=f"{tmp_path}/top/{pattern}").list()]
        there = [file.uri.removeprefix(f"s3://{bucket.name}/") for file in s3(f"top/{pattern}").list()]
        assert here == there, pattern


def names_of(source: Files) -> list[str]:
    return [file.uri.rpartition("/")[2] for file in source.list()]


def test_objects_are_read_as_the_same_rows_as_files(bucket: Any, s3: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    write_jsonl(tmp_path / "rows" / "1.jsonl", [{"n": n} for n in range(3)])
    (tmp_path / "rows" / "2.jsonl.gz").write_bytes(gzip.compress(b'{"n": 3}\n{broken\n'))
    (tmp_path / "rows" / "3.csv").write_text("n\nfour\n")
    parquet.write_table(pa.table({"n": [5, 6]}), tmp_path / "rows" / "4.parquet")
    for path in (tmp_path / "rows").iterdir():
        bucket.upload_file(str(path), f"rows/{path.name}")
    local, remote = Files(path=str(tmp_path / "rows")), s3("rows/")
    here, there = local.pin(), remote.pin()
    assert [file.sha256 for file in there] == [file.sha256 for file in here]

    def read(source: Files, files: Any) -> list[Any]:
        found = list(source.read(files, 1000))
        return [(r.uri.rpartition("/")[2], r.line, r.values if isinstance(r, Row) else r.reason) for r in found]

    assert read(remote, there) == read(local, here)
    assert {row.uri for row in remote.read(there, 1000)} == {file.uri for file in there}


def test_an_object_that_changes_is_never_mixed(bucket: Any, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "READ_BYTES", 1000)
    old, new = (b"".join(b'{"n": "%s%d"}\n' % (word, n) for n in range(500)) for word in (b"old", b"new"))
    bucket.put_object(Key="rows.jsonl", Body=old)
    source = s3("rows.jsonl")
    (pinned,) = source.pin()
    assert pinned.sha256 == hashlib.sha256(old).hexdigest()
    assert len(list(source.read((pinned,), 100))) == 500
    real, asked = objects.ask, itertools.count()

    def ask(filesystem: Any, request: Any) -> Any:
        if next(asked) == 3:
            bucket.put_object(Key="rows.jsonl", Body=new)
        return real(filesystem, request)

    monkeypatch.setattr(objects, "ask", ask)
    with pytest.raises(DataError, match=r"s3://.*rows\.jsonl changed or vanished while it was read"):
        list(source.read((pinned,), 100))
    with pytest.raises(DataError, match="changed or vanished"):
        list(source.read((pinned,), 100))
    bucket.put_object(Key="rows.jsonl", Body=old)  # the same bytes again are the same version
    assert source.pin() == (pinned,)


def test_a_damaged_object_is_told_by_its_own_name(bucket: Any, s3: Any) -> None:
    bucket.put_object(Key="rows.jsonl.gz", Body=gzip.compress(b'{"n": 1}\n' * 100)[:-9])
    source = s3("rows.jsonl.gz")
    with pytest.raises(DataError, match=rf"^s3://{bucket.name}/rows\.jsonl\.gz is a damaged gzip"):
        list(source.read(source.pin(), 100))


def test_the_age_of_an_object_is_the_servers_affair(bucket: Any, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_object(Key="rows/1.jsonl", Body=b"{}")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10_000)
    assert waiting(s3("rows/", settle_seconds=100)) == ["1.jsonl"]
    assert waiting(s3("rows/")) == []


def test_objects_wait_for_the_marker_of_their_folder(bucket: Any, s3: Any) -> None:
    for key in ("rows/a/1.jsonl", "rows/b/2.jsonl", "rows/a/_SUCCESS"):
        bucket.put_object(Key=key, Body=b"{}")
    for key in ("rows/", "rows/*/*.jsonl", "rows/b/2.jsonl"):
        assert waiting(s3(key, marker="_SUCCESS")) == ["2.jsonl"]
    assert waiting(s3("rows/a/1.jsonl", marker="_SUCCESS")) == []


def test_a_bucket_that_is_not_there_and_an_unknown_scheme(s3: Any, bucket: Any, s3_endpoint: str) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket"):
        Files(path="s3://no-such-bucket-here/rows/", endpoint_url=s3_endpoint).list()
    with pytest.raises(RecipeError, match="s3://bucket/prefix"):
        Files(path="az://bucket/rows/").list()
