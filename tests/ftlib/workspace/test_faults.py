"""Stage writes through a proxy that breaks things, and killed at every step: one whole output, or none to be seen."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ftlib.errors import StorageError, TransientError
from ftlib.storage import Store, claims, s3
from ftlib.storage.node_cache import node_view
from ftlib.storage.place import Place
from ftlib.workspace import InBucket, Workspace
from tests.ftlib.storage.fault_proxy import (
    Call,
    Fault,
    FaultProxy,
    clock_of_the_server,
    done_but_500,
    error,
    flipped,
    lost_reply,
    refused,
    reset_after,
    reset_before,
    silence,
    slow,
    taken_without_a_reason,
    truncated,
    unconditional,
)
from tests.ftlib.workspace.kit import FILES, Made, Stage, build, ended, files_in, forked, machine

PART = 5 * 2**20
"""The least that S3 takes for a part that is not the last."""
LARGE = os.urandom(PART + 2**20)

RECORD = f"work/stages/stage/{Stage().fingerprint}/record.json"


def build_large(folder: Path) -> Made:
    made = build(folder)
    (folder / "large").write_bytes(LARGE)
    return made


def records(bucket: Any) -> list[str]:
    return [stored.key for stored in bucket.objects.all() if stored.key == RECORD]


def anything(call: Call) -> bool:
    return True


def create(call: Call) -> bool:
    return call.operation == "create"


def decisive(call: Call) -> bool:
    """One of each kind, since a reply that never comes costs a time-out."""
    return call.spot in {("create", "stages"), ("complete", "blobs"), ("create", "claims"), ("get", "blobs")}


PASSING: dict[str, tuple[Callable[[], Fault], Callable[[Call], bool]]] = {
    "500": (lambda: refused(500, "InternalError"), anything),
    "503": (lambda: refused(503, "SlowDown"), anything),
    "slow": (lambda: slow(0.1), anything),
    "reset before": (reset_before, anything),
    "reset after": (reset_after, anything),
    "500 after": (done_but_500, anything),
    "lost reply": (lost_reply, decisive),
    "409": (lambda: refused(409, "ConditionalRequestConflict"), create),
    "412 without a reason": (taken_without_a_reason, create),
    "flipped byte": (flipped, lambda call: call.operation == "get" and call.folder != "probes"),
    "truncated body": (truncated, lambda call: call.operation == "get"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_leaves_one_whole_output(
    place: str, bucket: Any, s3_endpoint: str, proxy: FaultProxy, tmp_path: Path, fault: str, monkeypatch
) -> None:
    """Every kind of request is struck once, when it is made and when another machine reads it."""
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    monkeypatch.setattr(s3, "RANGE_BYTES", PART)
    strike, where = PASSING[fault]
    proxy.plan(strike(), where=where, once_per_spot=fault != "412 without a reason")
    made = machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, build_large)
    assert proxy.struck or where is not anything
    assert records(bucket) == [RECORD]
    proxy.clear()
    proxy.plan(strike(), where=where, once_per_spot=True)
    found = machine(place, tmp_path / "b", proxy.url).once(Stage(), Made, lambda _: pytest.fail("it is there"))
    assert (found, files_in(found.path)) == (made, {**FILES, "large": LARGE})
    assert proxy.struck


@pytest.mark.slow
def test_every_kind_of_request_is_struck(place: str, proxy: FaultProxy, tmp_path: Path, monkeypatch) -> None:
    """What the test above rests on."""
    monkeypatch.setattr(s3, "PART_BYTES", PART)
    proxy.plan(reset_after(), once_per_spot=True)
    machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, build_large)
    kinds = {("create", name) for name in ("stages", "claims", "leases", "probes", "place.json")}
    kinds |= {(what, "blobs") for what in ("put", "head", "start", "part", "complete")}
    kinds |= {("get", "stages"), ("get", "place.json"), ("list", "claims"), ("delete", "claims"), ("delete", "leases")}
    assert {call.spot for call in proxy.struck} >= kinds - {("list", "claims")}


LASTING: dict[str, tuple[Fault, type[StorageError] | type[TransientError], str]] = {
    "500": (refused(500, "InternalError"), TransientError, r"the store answered InternalError.*run again later"),
    "reset": (reset_before(), TransientError, r"check the endpoint and the network"),
    "silence": (silence(), TransientError, r"check the endpoint and the network"),
    "expired": (refused(400, "ExpiredToken"), StorageError, r"credentials have expired: renew them and run again"),
    "no rights": (refused(403, "AccessDenied"), StorageError, r"the role needs s3:GetObject, s3:PutObject and"),
    "no bucket": (refused(404, "NoSuchBucket"), StorageError, r"create the bucket, or correct its name"),
    "our clock is late": (clock_of_the_server(timedelta(hours=1)), StorageError, r"is 3[56]\d\d s behind"),
}
STEPS = {"at the first read": 0, "after the build": 1}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_is_one_line_and_the_next_run_goes_on(
    place: str, bucket: Any, proxy: FaultProxy, tmp_path: Path, fault: str, step: str
) -> None:
    strike, kind, says = LASTING[fault]
    work = machine(place, tmp_path / "a", proxy.url, deadline=0.5)

    def then(folder: Path) -> Made:
        proxy.plan(strike)
        return build(folder)

    if not STEPS[step]:
        proxy.plan(strike)
    with pytest.raises(kind, match=says) as caught:
        work.once(Stage(), Made, then)
    assert "\n" not in str(caught.value)
    assert records(bucket) == []
    proxy.clear()
    assert files_in(machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, build).path) == FILES


@pytest.mark.slow
def test_credentials_that_expire_in_mid_upload_lose_nothing_that_is_up(
    place: str, bucket: Any, proxy: FaultProxy, tmp_path: Path
) -> None:
    work = machine(place, tmp_path / "a", proxy.url)
    proxy.plan(refused(400, "ExpiredToken"), where=lambda call: call.spot == ("create", "stages"))
    with pytest.raises(StorageError, match="credentials have expired: renew them and run again"):
        work.once(Stage(), Made, build)
    proxy.clear()
    assert work.once(Stage(), Made, build).said == "done"
    assert [call for call in proxy.calls if call.spot == ("put", "blobs")] == []


class TestBuckets:
    def test_one_that_takes_no_notice_of_conditions_is_refused_before_anything_is_made(
        self, place: str, bucket: Any, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        proxy.plan(unconditional(), where=create)
        with pytest.raises(StorageError, match="let 16 of 16 writers create the same object"):
            machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, lambda _: pytest.fail("too late"))
        assert [stored.key for stored in bucket.objects.all()] == []

    @pytest.mark.slow
    def test_one_that_is_only_read_gives_what_is_there_and_makes_nothing(
        self, place: str, proxy: FaultProxy, tmp_path: Path
    ) -> None:
        machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, build)
        proxy.plan(refused(403, "AccessDenied"), where=lambda call: call.method in ("PUT", "POST", "DELETE"))
        work = machine(place, tmp_path / "b", proxy.url)
        assert files_in(work.once(Stage(), Made, lambda _: pytest.fail("it is there")).path) == FILES
        with pytest.raises(StorageError, match="the role needs s3:GetObject, s3:PutObject and s3:ListBucket there"):
            work.once(Stage(name="other"), Made, lambda _: pytest.fail("too late"))

    @pytest.mark.slow
    def test_one_that_may_not_be_deleted_from_works_too(self, place: str, proxy: FaultProxy, tmp_path: Path) -> None:
        proxy.plan(refused(403, "AccessDenied"), where=lambda call: call.method == "DELETE")
        work = machine(place, tmp_path / "a", proxy.url)

        def fail(folder: Path) -> Made:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work.once(Stage(), Made, fail)
        assert work.once(Stage(), Made, build).said == "done"  # its claim was given back by a last beat

    @pytest.mark.slow
    def test_one_in_another_region_says_so(self, place: str, proxy: FaultProxy, tmp_path: Path) -> None:
        async def elsewhere(call: Call, send: Any) -> Any:
            return error(301, "PermanentRedirect", "use the bucket's endpoint", **{"x-amz-bucket-region": "eu-west-1"})

        proxy.plan(elsewhere)
        with pytest.raises(StorageError, match="AWS_REGION"):
            machine(place, tmp_path / "a", proxy.url, deadline=0.5).find(Stage(), Made)


class Dying(Store):
    """A store whose process is killed before or behind its `last` call."""

    def __init__(self, store: Any, last: int, behind: bool) -> None:
        self._store, self._left, self._behind = store, last, behind

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        member = getattr(self._store, name)
        if not callable(member):
            return member

        def call(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left < 0 and not self._behind:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = member(*arguments, **named)
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call


def dies(place: str, cache: Path, endpoint: str, last: int, behind: bool) -> None:
    work = machine(place, cache, endpoint)
    view = node_view(Place.parse(place))
    assert isinstance(work, InBucket)
    work.settle()  # its race has many writers at once
    view.store = Dying(view.store, last, behind)
    made = work.once(Stage(), Made, build)
    assert files_in(made.path) == FILES


@pytest.mark.slow
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
def test_killed_at_every_step_the_next_machine_makes_it_whole(
    place: str, bucket: Any, s3_endpoint: str, tmp_path: Path, behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.2)
    for step in range(100):
        child = forked(lambda step=step: dies(place, tmp_path / "a", s3_endpoint, step, behind))
        code = ended(child)
        committed = records(bucket)
        assert code in (0, -signal.SIGKILL)
        work = machine(place, tmp_path / f"b{step}", s3_endpoint)
        made = work.once(Stage(), Made, build)
        assert files_in(made.path) == FILES
        if committed and step % 2:  # the killed machine itself goes on as well
            made = machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, build)
            assert files_in(made.path) == FILES
        bucket.objects.all().delete()
        node_view(Place.parse(place)).release_all()
        if code == 0:
            break
    assert step > 12


class TestBlobs:
    def blob(self, bucket: Any, data: bytes) -> Any:
        sha256 = hashlib.sha256(data).hexdigest()
        return bucket.Object(f"work/blobs/sha256/{sha256[:2]}/{sha256}")

    def test_one_that_was_deleted_under_a_record_is_told_with_its_remedy_which_helps(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, build)
        self.blob(bucket, b"text").delete()
        work = machine(place, tmp_path / "b", s3_endpoint)
        found = work.once(Stage(), Made, build)
        assert files_in(found.local(Path("model"))) == {"weights": FILES["model/weights"], "same": FILES["model/same"]}
        with pytest.raises(StorageError, match=rf"is missing .*{RECORD} needs it; .*delete both, and"):
            _ = found.path
        bucket.Object(RECORD).delete()
        assert files_in(work.once(Stage(), Made, build).path) == FILES
        assert files_in(machine(place, tmp_path / "c", s3_endpoint).once(Stage(), Made, build).path) == FILES

    @pytest.mark.slow
    def test_one_that_was_damaged_is_never_read(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, build)
        self.blob(bucket, b"text").put(Body=b"taxt")
        found = machine(place, tmp_path / "b", s3_endpoint).find(Stage(), Made)
        assert found
        with pytest.raises(StorageError, match=r"its bytes were changed.*/record.json needs it; .*delete both, and"):
            _ = found.path
        assert not (found.local(Path("nothing")).parent / "notes" / "a" / "b.txt").exists()

    @pytest.mark.slow
    def test_what_is_sent_over_plain_http_is_covered_by_its_signature(
        self, place: str, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that checks it, as all but moto do, refuses bytes that were flipped on the way up."""
        monkeypatch.setattr(s3, "PART_BYTES", PART)
        machine(place, tmp_path / "a", proxy.url).once(Stage(), Made, build_large)
        sent = [call for call in proxy.calls if call.operation in ("create", "put", "part")]
        assert {call.operation for call in sent} == {"create", "put", "part"}
        assert all(call.headers["X-Amz-Content-SHA256"] == hashlib.sha256(call.body).hexdigest() for call in sent)

    @pytest.mark.slow
    def test_a_full_disk_of_the_maker_is_no_fault_of_the_network(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        def full(folder: Path) -> Made:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "weights"))

        with pytest.raises(StorageError, match="No space left on device"):
            machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, full)
        assert records(bucket) == []


@pytest.mark.slow
def test_any_order_of_what_machines_do_leaves_what_a_dictionary_would(
    place: str, s3_endpoint: str, tmp_path: Path
) -> None:
    """A model-based test: three machines make, find, forget and evict; a dictionary says what is there."""
    import random

    draw, model = random.Random(17), dict[str, str]()
    machines: dict[int, Workspace] = {}
    for turn in range(60):
        number, name = draw.randrange(3), draw.choice("abc")
        work = machines[number] = machine(place, tmp_path / str(number), s3_endpoint)
        job = Stage(name=name)
        match draw.choice(["make", "make", "find", "read", "forget", "evict"]):
            case "make":

                def make(folder: Path, turn: int = turn) -> Made:
                    (folder / "turn").write_text(str(turn))
                    return Made(said=str(turn))

                model.setdefault(name, str(turn))
                assert work.once(job, Made, make).said == model[name]
            case "find":
                found = work.find(job, Made)
                assert (found and found.said) == model.get(name)
                assert work.has(job) == (name in model)
            case "read" if name in model:
                found = work.find(job, Made)
                assert found
                assert (found.path / "turn").read_text() == model[name]
            case "forget" if name in model:
                work.forget(job)
                del model[name]
            case "evict":
                view = node_view(Place.parse(place))
                view.release_all()
                view.room.make(2**62, full=True)
            case _:
                pass
