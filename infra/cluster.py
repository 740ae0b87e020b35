"""A cluster on one machine: Ray nodes that share nothing but a bucket, each in a network of its own that can be cut.

    python -m infra.cluster up --nodes 3 --cpus 1       # a head, three workers, a bucket and a laptop
    python -m infra.cluster run -- reglage run recipe.yaml --work s3://cluster/work --set compute.ray_address=http://head:8265
    python -m infra.cluster cut node-1                   # its packets vanish; `heal` lets them through again
    python -m infra.cluster cut node-1 --from bucket     # only those to the bucket do
    python -m infra.cluster kill node-2                  # SIGKILL for all its processes at once
    python -m infra.cluster add                          # one more
    python -m infra.cluster down

A machine here is a tree of processes with its own network, processes, /tmp, /dev/shm, home and cache; every other
path is read-only to it, so what two of them have in common went through the bucket or the wire. They hang on a switch
that is a network namespace too: nothing of the host's network changes. `laptop` runs no Ray; commands run there.

Linux, root, and iproute2 and util-linux are needed; no engine for containers is. Nodes ask for Ray's token. The
bucket is moto, in memory, one request at a time, under s3://cluster; the host reaches it on the loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "cluster"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "cluster", "AWS_SECRET_ACCESS_KEY": "cluster", "AWS_DEFAULT_REGION": "us-east-1"}
_NETWORK = "10.77.0"
_ADDRESSES = {"bucket": 2, "head": 3, "laptop": 4}
_FIRST_NODE = 10
_S3_PORT, _GCS_PORT, _JOBS_PORT = 9000, 6379, 8265
_SHM_MB, _OBJECT_STORE_MB = 256, 80
_START_SECONDS = 120.0

_MACHINE = """
set -e
mount --make-rprivate /
mount --bind {hosts} /etc/hosts
mkdir -p {disk}/{below}
mount --bind {root} {disk}/{below}
mount -o remount,bind,ro {disk}/{below}
mount --rbind {disk} /tmp
mount -t tmpfs -o size={shm}m tmpfs /dev/shm
mount -o remount,bind,ro /
ip link set lo up
cd /tmp
exec "$@"
"""


class ClusterError(Exception):
    """What this machine, or the state of the cluster, does not allow; one line."""


@dataclass
class Machine:
    """One tree of processes with a network and a disk of its own."""

    name: str
    address: str
    cpus: float = 0.0
    pid: int = 0
    """Of the process whose end is the end of all others; 0 while none runs."""
    started: str = ""
    """When, by the kernel's clock, so that a number that was given again is not taken for it."""
    is_cut: bool = False


@dataclass
class _State:
    id: str
    token: str
    endpoint: str = ""
    machines: dict[str, Machine] = field(default_factory=dict[str, Machine])


class Cluster:
    """Machines of one folder, whose `state.json` says what runs: another process goes on where one has ended."""

    def __init__(self, folder: Path) -> None:
        """Take a folder, with or without a cluster in it. Raises ClusterError where this machine cannot have one."""
        if missing := why_not():
            raise ClusterError(missing)
        self.folder = folder.resolve()
        file = self._file
        if file.exists():
            saved = json.loads(file.read_text())
            machines = {name: Machine(**machine) for name, machine in saved.pop("machines").items()}
            self._state = _State(**saved, machines=machines)
        else:
            self._state = _State(id=secrets.token_hex(2), token=secrets.token_hex(16))

    @property
    def endpoint(self) -> str:
        """Return where this host reaches the bucket, also while its link is cut."""
        return self._state.endpoint

    @property
    def address(self) -> str:
        """Return what `compute.ray_address` is on the laptop."""
        return f"http://head:{_JOBS_PORT}"

    @property
    def machines(self) -> Mapping[str, Machine]:
        """Return all machines by name, those that were killed included."""
        return self._state.machines

    @property
    def nodes(self) -> list[str]:
        """Return the names of Ray's worker nodes that run."""
        return [name for name in self._state.machines if name.startswith("node-") and self.is_alive(name)]

    def up(self, nodes: int, cpus: float) -> None:
        """Start the bucket, the head, the laptop and worker nodes, and wait until Ray has them.

        Raises ClusterError if there is a cluster already, or one of them does not start.
        """
        if self._state.machines:
            raise ClusterError(f"{self.folder} has a cluster; `down` ends it")
        self.folder.mkdir(parents=True, exist_ok=True)
        switch = self._namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for name in _ADDRESSES:
            self._plug_in(name, _ADDRESSES[name])
        self._start_bucket()
        self.start_head()
        for _ in range(nodes):
            self._start_node(cpus)
        self.wait_for_nodes(nodes)

    def start_head(self) -> None:
        """Start the head, or start it again, without CPUs: the driver of a job runs there, and no worker.

        Raises ClusterError if it takes no job in time.
        """
        self._start_ray(
            "head",
            ["--head", f"--port={_GCS_PORT}", "--num-cpus=0", f"--dashboard-port={_JOBS_PORT}"],
            [f"--dashboard-host={self._state.machines['head'].address}"],
        )
        self._wait("head", lambda: self._ask("/api/jobs/") is not None)

    def add(self, cpus: float) -> str:
        """Start one more worker node and return its name; it has joined when `wait_for_nodes` says so."""
        return self._start_node(cpus)

    def wait_for_nodes(self, count: int) -> None:
        """Wait until Ray counts so many worker nodes. Raises ClusterError if it does not in time."""
        self._wait("nodes", lambda: self.counted() == count)

    def counted(self) -> int:
        """Return how many worker nodes Ray takes for alive; -1 if the head does not say."""
        answer = self._ask("/api/v0/nodes?limit=1000&detail=1")
        try:
            rows = json.loads(answer or "")["data"]["result"]["result"]
        except (ValueError, KeyError, TypeError):
            return -1
        return sum(row["state"] == "ALIVE" and not row["is_head_node"] for row in rows)

    def kill(self, name: str) -> None:
        """End all processes of a machine at once, as when its power fails; its disk stays. Raises ClusterError."""
        machine = self._machine(name)
        if self.is_alive(name):
            os.kill(machine.pid, signal.SIGKILL)
            _until(lambda: not self.is_alive(name), 10.0)
        machine.pid = 0
        self._save()

    def cut(self, name: str, other: str | None = None) -> None:
        """Let all packets from and to a machine vanish, or its packets to one other: nobody is told."""
        machine = self._machine(name)
        if other is None:
            _ip("-n", self._namespace("switch"), "link", "set", name, "nomaster")
        else:
            nobody = ("lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
            _ip("-n", self._namespace(name), "neigh", "replace", self._machine(other).address, *nobody)
        machine.is_cut = True
        self._save()

    def heal(self, name: str) -> None:
        """Let packets through again."""
        _ip("-n", self._namespace("switch"), "link", "set", name, "master", "switch")
        _ip("-n", self._namespace(name), "neigh", "flush", "dev", "eth0", "nud", "permanent")
        self._machine(name).is_cut = False
        self._save()

    def is_alive(self, name: str) -> bool:
        """Say whether a machine's processes run."""
        machine = self._state.machines[name]
        return bool(machine.pid) and _start_time(machine.pid) == machine.started

    def popen(self, command: Sequence[str], machine: str = "laptop", **options: object) -> subprocess.Popen[str]:
        """Start a command on a machine that has no process of its own yet, with what a user sets there.

        SIGKILL for it ends all that it started.
        """
        return subprocess.Popen(self.inside(machine, command), text=True, **options)  # type: ignore[call-overload]

    def environment(self, name: str) -> dict[str, str]:
        """Return what is set on a machine."""
        return {
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": f"http://bucket:{_S3_PORT}",
            "HOME": "/tmp/.home",
            "LANG": "C.UTF-8",
            "MACHINE": name,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._state.token,
            "RAY_TMPDIR": "/tmp",
            "RAY_worker_niceness": "0",  # by default 15, which on a busy machine is next to never
            "REGLAGE_CACHE": "/tmp/.cache",
        }

    def down(self) -> None:
        """End every machine by its process id, and take the networks, the disks and the state away."""
        for machine in self._state.machines.values():
            if machine.pid:
                self.kill(machine.name)
        for name in ("switch", *self._state.machines):
            for pid in _ip("netns", "pids", self._namespace(name), check=False).split():  # a command on the laptop
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            _ip("netns", "del", self._namespace(name), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._state.machines.clear()

    def left(self) -> list[str]:
        """Return what is there of this cluster: namespaces, processes, mounts and the folder; nothing after `down`."""
        names = [line.split()[0] for line in _ip("netns", "list").splitlines() if line]
        found = [f"namespace {name}" for name in names if name.startswith(f"rg{self._state.id}-")]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = process.joinpath("environ").read_bytes()
            except OSError:
                continue
            if self._state.token.encode() in environment:
                found.append(f"process {process.name}")
        found += [f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if str(self.folder) in line]
        return found + [f"folder {self.folder}"] * self.folder.exists()

    @property
    def _file(self) -> Path:
        return self.folder / "state.json"

    def _save(self) -> None:
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(asdict(self._state), indent=1))
        part.chmod(0o600)  # it holds the token
        part.replace(self._file)

    def _machine(self, name: str) -> Machine:
        if name not in self._state.machines:
            raise ClusterError(f"there is no {name!r}; there are {', '.join(self._state.machines) or 'none'}")
        return self._state.machines[name]

    def _namespace(self, name: str) -> str:
        return f"rg{self._state.id}-{name}"

    def _plug_in(self, name: str, number: int, cpus: float = 0.0) -> None:
        """Give a machine a network of its own, a link to the switch and an address."""
        own, switch = self._namespace(name), self._namespace("switch")
        address = f"{_NETWORK}.{number}"
        self._state.machines[name] = Machine(name, address, cpus)
        self._save()
        _ip("netns", "add", own)
        _ip("-n", switch, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", own)
        _ip("-n", switch, "link", "set", name, "master", "switch", "up")
        _ip("-n", own, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", own, "link", "set", device, "up")
        self._write_hosts()

    def _write_hosts(self) -> None:
        names = {"localhost": "127.0.0.1", **{name: machine.address for name, machine in self._state.machines.items()}}
        self._hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))

    @property
    def _hosts(self) -> Path:
        return self.folder / "hosts"

    def _start_bucket(self) -> None:
        """Start moto on a socket in the bucket's network and one of the host, and make the bucket."""
        command = [sys.executable, str(ROOT / "infra" / "cluster_bucket.py"), self._namespace("bucket"), str(_S3_PORT)]
        environment = {**os.environ, "RAY_AUTH_TOKEN": self._state.token}  # `left` knows it by that
        with self._log("bucket").open("wb") as log:
            moto = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
            )
        self._started("bucket", moto.pid)
        assert moto.stdout
        if not (port := moto.stdout.readline().strip()):
            raise ClusterError(f"the bucket did not start: see {self._log('bucket')}")
        self._state.endpoint = f"http://127.0.0.1:{port}"
        self._save()
        make = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket=sys.argv[2])"
        command = [sys.executable, "-c", make, self._state.endpoint, BUCKET]
        subprocess.run(command, check=True, env={**os.environ, **CREDENTIALS})

    def _start_node(self, cpus: float) -> str:
        numbers = [int(name.partition("-")[2]) for name in self._state.machines if name.startswith("node-")]
        number = max(numbers, default=0) + 1
        name = f"node-{number}"
        self._plug_in(name, _FIRST_NODE + number, cpus)
        self._start_ray(name, [f"--address={self._state.machines['head'].address}:{_GCS_PORT}", f"--num-cpus={cpus:g}"])
        return name

    def _start_ray(self, name: str, *options: Sequence[str]) -> None:
        machine = self._machine(name)
        command = ["ray", "start", "--block", f"--node-ip-address={machine.address}", "--disable-usage-stats"]
        command += [f"--object-store-memory={_OBJECT_STORE_MB << 20}", *(option for some in options for option in some)]
        with self._log(name).open("ab") as log:
            process = self.popen(
                command, name, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._started(name, process.pid)

    def _started(self, name: str, pid: int) -> None:
        machine = self._state.machines[name]
        machine.pid, machine.started = pid, _start_time(pid)
        self._save()

    def inside(self, name: str, command: Sequence[str]) -> list[str]:
        """Return the command as it runs on a machine: first it takes its place, then it looks only at its own."""
        disk = self.folder / "disks" / name
        for part in (".home", ".cache"):
            (disk / part).mkdir(parents=True, exist_ok=True)
        below = ROOT.relative_to("/tmp") if ROOT.is_relative_to("/tmp") else None
        lines = [line for line in _MACHINE.splitlines() if below or "{below}" not in line]  # /tmp will hide it
        inside = "\n".join(lines).format(disk=disk, root=ROOT, below=below, shm=_SHM_MB, hosts=self._hosts)
        environment = [f"{key}={value}" for key, value in self.environment(name).items()]
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        machine = ["ip", "netns", "exec", self._namespace(name), *own, "env", "-i", *environment]
        return [*machine, "sh", "-c", inside, "sh", *command]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _ask(self, path: str) -> str | None:
        """Return what the head's dashboard says, asked from its own network: a cut link keeps nobody here waiting."""
        ask = (
            "import sys, urllib.request as u; r = u.Request(sys.argv[1], headers={'Authorization': sys.argv[2]}); "
            "print(u.urlopen(r, timeout=10).read().decode())"
        )
        url = f"http://{self._state.machines['head'].address}:{_JOBS_PORT}{path}"
        command = [sys.executable, "-I", "-S", "-c", ask, url, f"Bearer {self._state.token}"]
        done = subprocess.run(
            ["ip", "netns", "exec", self._namespace("head"), *command], capture_output=True, text=True, check=False
        )
        return done.stdout if done.returncode == 0 else None

    def _wait(self, what: str, is_there: Callable[[], bool]) -> None:
        def died() -> list[str]:
            return [name for name, machine in self._state.machines.items() if machine.pid and not self.is_alive(name)]

        in_time = _until(lambda: bool(died()) or is_there(), _START_SECONDS)
        if ended := died():
            raise ClusterError(f"{', '.join(ended)} ended: {self._last_words(ended[0])}")
        if not in_time:
            raise ClusterError(f"{what}: not there in {_START_SECONDS:g} s; see {self.folder}/*.log")

    def _last_words(self, name: str) -> str:
        log = self._log(name)
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        return "; ".join(line.strip() for line in lines[-3:]) or "without a word"


def why_not() -> str:
    """Say in one line what keeps this machine from having a cluster; empty if nothing does."""
    if sys.platform != "linux":
        return "a cluster on one machine needs Linux: network namespaces"
    if missing := [name for name in ("ip", "unshare", "mount") if not shutil.which(name)]:
        return f"{', '.join(missing)}: not on this machine; apt-get install iproute2 util-linux mount"
    probe = ["unshare", "--mount", "--net", "--pid", "--fork", "mount", "--make-rprivate", "/"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        return "this user may not make namespaces; run as root, with CAP_SYS_ADMIN and CAP_NET_ADMIN"
    return ""


def _ip(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise ClusterError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _start_time(pid: int) -> str:
    """Return when a process started, in the kernel's ticks; empty where none is, or it only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/reglage-cluster"), help="of its disks and logs")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, about in {
        "up": "start a bucket, a head and worker nodes",
        "add": "start one more worker node",
        "kill": "end all processes of a machine",
        "cut": "drop a machine's packets",
        "heal": "let its packets through again",
        "run": "run a command on the laptop, from its /tmp",
        "list": "say what there is",
        "down": "end all of it",
    }.items():
        action = actions.add_parser(name, help=about)
        if name in ("up", "add"):
            action.add_argument("--cpus", type=float, default=1.0, help="of each worker node (1)")
        if name == "up":
            action.add_argument("--nodes", type=int, default=2, help="worker nodes (2)")
        if name in ("kill", "cut", "heal"):
            action.add_argument("machine", help="bucket, head, laptop, node-1 ...")
        if name == "cut":
            action.add_argument("--from", dest="other", help="drop what it sends to this one alone")
        if name == "run":
            action.add_argument("command", nargs=argparse.REMAINDER, help="after --")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        cluster = Cluster(asked.folder)
        if asked.action == "run":
            inside = cluster.inside("laptop", asked.command[asked.command[:1] == ["--"] :])
            os.execvp(inside[0], inside)  # whoever ends us ends it
        _act(cluster, asked)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _act(cluster: Cluster, asked: argparse.Namespace) -> None:
    if asked.action == "up":
        try:
            cluster.up(asked.nodes, asked.cpus)
        except BaseException:
            cluster.down()
            raise
    elif asked.action == "add":
        print(cluster.add(asked.cpus))
    elif asked.action == "down":
        cluster.down()
        if left := cluster.left():
            raise ClusterError(f"left: {'; '.join(left)}")
    elif asked.action == "cut":
        cluster.cut(asked.machine, asked.other)
    elif asked.action != "list":
        getattr(cluster, asked.action)(asked.machine)
    if asked.action in ("up", "list"):
        for machine in cluster.machines.values():
            state = "cut" if machine.is_cut else "runs" if cluster.is_alive(machine.name) else "no process"
            print(f"{machine.name:10} {machine.address:12} {machine.cpus:g} CPUs  {state}")
        print(f"on the laptop: compute.ray_address {cluster.address}; s3://{BUCKET}; on this host: {cluster.endpoint}")


if __name__ == "__main__":
    sys.exit(main())
