"""A real S3 server on loopback for the slow tests and the benchmarks: Ceph's mon, one OSD in memory, and radosgw.

    python infra/radosgw.py pytest -m slow tests/ftlib/storage     # runs a command beside it, and stops
    python infra/radosgw.py --backend dbstore COMMAND              # radosgw on sqlite: it ignores conditions
    python infra/radosgw.py --tree /srv/trixie COMMAND             # the programs of another Debian release
    python infra/radosgw.py                                        # until Ctrl-C

The command finds AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION in its environment,
and S3_SERVER, what it talks to. Nothing is installed here (`make ceph` does), nothing listens beyond loopback,
everything is below one temporary folder, and every daemon is ended by its own process id. Objects are in memory.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
REMEDY = "install them with `make ceph`, or name a tree that has them with --tree"
CONF = """
[global]
fsid = {fsid}
mon_host = v1:127.0.0.1:{mon}
ms_bind_msgr2 = false
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = {memory}
osd_memory_target = 1073741824
run_dir = {folder}/run
admin_socket = {folder}/run/$name.$pid.asok
log_file = {folder}/$name.log
pid_file =
keyring = {folder}/keyring
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
mon_data_avail_crit = 1
mon_data_avail_warn = 2
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{rgw}
rgw_gc_obj_min_wait = 2
rgw_enable_usage_log = false
rgw_gc_processor_period = 5
rgw_gc_processor_max_time = 5
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {kms_keys}
{backend}
"""
KMS_KEYS = (
    "arn:aws:kms:us-east-1:000000000000:key/3a1f2c4d-0000-4000-8000-000000000001",
    *("alias/one", "alias/two", "alias/rows"),
)
"""Keys of SSE-KMS that its own backend for tests knows: those that our tests ask for."""
SQLITE = """
rgw_backend_store = dbstore
rgw_config_store = dbstore
dbstore_db_dir = {folder}
dbstore_config_uri = file://{folder}/config.db
no_mon_config = true
"""


@dataclass(frozen=True)
class Server:
    """How to reach a running radosgw."""

    endpoint: str
    access_key: str
    secret_key: str
    version: str

    def environment(self) -> dict[str, str]:
        """Return what every AWS tool reads."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "S3_SERVER": self.version,
        }


class Ceph:
    """The daemons of one cluster in one folder; with `tree`, the programs of a Debian below that folder."""

    def __init__(self, folder: Path, tree: Path | None, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.inside = Path("/") / folder.relative_to(tree) if tree else folder
        self.prefix = ["chroot", str(tree)] if tree else []

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return how to run a program of this cluster."""
        return [*self.prefix, program, "--conf", str(self.inside / "ceph.conf"), *arguments]

    def call(self, program: str, *arguments: str) -> str:
        """Run a program to its end and return its output. Raises SystemExit with its last words."""
        try:
            done = subprocess.run(self.command(program, *arguments), capture_output=True, text=True, timeout=60)
        except subprocess.TimeoutExpired:
            raise SystemExit(
                f"radosgw: {program} has not ended after 60 s; its log is lost with {self.folder}"
            ) from None
        if done.returncode:
            raise SystemExit(f"radosgw: {program}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a daemon that ends with the stack."""
        log = self.stack.enter_context((self.folder / f"{program}.out").open("wb"))
        daemon = subprocess.Popen(self.command(program, "--foreground", *arguments), stdout=log, stderr=log)
        self.stack.callback(end, daemon)
        return daemon

    def start_cluster(self) -> None:
        """Start a monitor and an OSD whose objects are in memory."""
        for name in ("run", "mon", "osd", "rgw"):
            (self.folder / name).mkdir()
        (self.folder / "keyring").touch()
        conf = dict(
            line.split(" = ", 1) for line in (self.folder / "ceph.conf").read_text().splitlines() if " = " in line
        )
        monmap = str(self.inside / "monmap")
        self.call("monmaptool", "--create", "--fsid", conf["fsid"], "--addv", "a", f"[{conf['mon_host']}]", monmap)
        self.call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self.start("ceph-mon", "-i", "a")
        identity = str(uuid.uuid4())
        self.call("ceph", "--connect-timeout", "30", "osd", "create", identity)
        # before its first start, and with the monitors' map, or it never boots
        self.call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity, "--monmap", monmap)
        for _ in range(5):  # one start in four hangs where the OSD logs in to the monitor (16.2.15, 18.2.7)
            osd = self.start("ceph-osd", "-i", "0")
            if self.is_up(seconds=10):
                return
            end(osd)
        raise SystemExit(f"radosgw: the OSD does not come up{self.last_words()}")

    def is_up(self, seconds: float) -> bool:
        """Wait for the OSD."""
        until = time.monotonic() + seconds
        while not json.loads(self.call("ceph", "osd", "stat", "--format", "json"))["num_up_osds"]:
            if time.monotonic() > until:
                return False
            time.sleep(0.3)
        return True

    def last_words(self) -> str:
        """Return the ends of the daemons' logs, which go with the folder."""
        logs = sorted(self.folder.glob("*.out")) + sorted(self.folder.glob("*.log"))
        return "".join(f"\n== {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in logs)

    def make_user(self, access: str, secret: str) -> None:
        """Make the one S3 user. Takes a while the first time: it makes the pools."""
        keys = ("--access-key", access, "--secret-key", secret)
        self.call(
            "radosgw-admin", "user", "create", "--uid", "tests", "--display-name", "tests", *keys, "-n", "client.rgw"
        )


def end(daemon: subprocess.Popen[bytes]) -> None:
    """End one process, by its id."""
    daemon.terminate()
    try:
        daemon.wait(3)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def free_port() -> int:
    """Return a port of loopback on which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextmanager
def running(backend: str, tree: Path | None) -> Generator[Server]:
    """Run a server while the block runs. Raises SystemExit if it cannot be started."""
    missing = [name for name in PROGRAMS if not found(name, tree)]
    if missing:
        raise SystemExit(f"radosgw: no {', '.join(missing)} here; {REMEDY}")
    with tempfile.TemporaryDirectory(prefix="radosgw-", dir=tree and tree / "tmp") as place, ExitStack() as stack:
        ceph, port = Ceph(Path(place), tree, stack), free_port()
        conf = CONF.format(
            fsid=uuid.uuid4(),
            mon=free_port(),
            rgw=port,
            folder=ceph.inside,
            memory=12 * 2**30,
            kms_keys=" ".join(f"{key}={base64.b64encode(os.urandom(32)).decode()}" for key in KMS_KEYS),
            backend=SQLITE.format(folder=ceph.inside) if backend == "dbstore" else "",
        )
        (ceph.folder / "ceph.conf").write_text(conf)
        access, secret = secrets.token_hex(10).upper(), secrets.token_hex(20)
        version = ceph.call("radosgw", "--version").removeprefix("ceph version ").split("(")[0].strip()
        if backend == "rados":
            ceph.start_cluster()
        elif int(version.split(".")[0]) < 18:
            raise SystemExit(f"radosgw: {version} has no dbstore, 18 has; name a tree that has it with --tree")
        ceph.make_user(access, secret)
        ceph.start("radosgw", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{port}"
        wait_for(endpoint)
        yield Server(endpoint, access, secret, f"radosgw {version} on {backend}")


def found(program: str, tree: Path | None) -> bool:
    """Say whether a program is installed."""
    return (tree / "usr/bin" / program).exists() if tree else shutil.which(program) is not None


def wait_for(endpoint: str, seconds: float = 120) -> None:
    """Wait until anything answers."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise SystemExit(f"radosgw: nothing answers at {endpoint} after {seconds:.0f} s")


def main(arguments: Sequence[str]) -> int:
    """Run a server, and a command beside it; its exit status is ours."""
    parser = argparse.ArgumentParser(prog="radosgw", description="Run a command beside a real S3 server on loopback.")
    parser.add_argument("--backend", choices=("rados", "dbstore"), default="rados")
    parser.add_argument("--tree", type=Path, default=os.environ.get("CEPH_TREE"), help="a Debian that has Ceph")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with running(given.backend, given.tree and given.tree.absolute()) as server:
        print(f"radosgw: {server.version} at {server.endpoint}", file=sys.stderr, flush=True)
        if given.command:
            return subprocess.run(given.command, env={**os.environ, **server.environment()}).returncode
        print(json.dumps(server.environment(), indent=1), flush=True)
        signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
