"""What others could reach or read: settings that are not safe, folders that everyone may read, ports that are open."""

from __future__ import annotations

import ipaddress
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from deployments.machine.findings import Finding, unsafe, well, wrong
from deployments.machine.processes import listens, ours
from flows.prefect_server import without_secrets
from ftlib.__main__ import shadowing
from ftlib.wording import some


def exposure(work: Path, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Say what is not safe; one line where all is."""
    found = [*settings(environment), *modes(work), *ports(), *shadows()]
    yield from found
    if not found:
        yield well("safety", "no unsafe setting, nothing that others may read or reach")


def settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Look at Prefect's settings: who may reach the server, and whether what goes there can be read on the way."""
    url = environment.get("PREFECT_API_URL", "")
    parts = urlsplit(url) if url else None
    if parts is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield unsafe(
            "safety",
            f"PREFECT_API_URL is {without_secrets(url)}: parameters and passwords go there unencrypted",
            "use https://, or a tunnel that ends on the loopback",
        )
    host = environment.get("PREFECT_SERVER_API_HOST", "127.0.0.1")
    if not is_loopback(host) and not environment.get("PREFECT_SERVER_API_AUTH_STRING"):
        yield unsafe(
            "safety",
            f"PREFECT_SERVER_API_HOST is {host} without PREFECT_SERVER_API_AUTH_STRING: who reaches it runs code here",
            "set the auth string (user:password), or listen on 127.0.0.1",
        )
    if environment.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").lower() in ("1", "true"):
        yield unsafe(
            "safety",
            "PREFECT_API_TLS_INSECURE_SKIP_VERIFY is on: anybody may pose as the server",
            "unset it, and give PREFECT_API_SSL_CERT_FILE",
        )


def is_loopback(host: str) -> bool:
    """Say whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def modes(work: Path) -> Iterator[Finding]:
    """Look whether everyone on this machine may read what rows say."""
    mask = os.umask(0o077)
    os.umask(mask)
    if work.is_dir():
        mode = stat.S_IMODE(work.stat().st_mode)
        if mode & 0o007:
            yield unsafe(
                "safety", f"{work.absolute()} is {mode:o}: everyone here may read its rows", f"chmod o-rwx {work}"
            )
    if mask & 0o022 != 0o022:
        yield unsafe("safety", f"the umask is {mask:03o}: what is written here, others may change", "umask 077, or 027")


def ports() -> Iterator[Finding]:
    """Look which of our own processes listen beyond the loopback."""
    found = ours()
    doors = [
        f"{address}:{port} (process {pid}, {found[pid][:40]})"
        for pid, address, port in sorted(listens(found))
        if not is_loopback(address)
    ]
    if doors:
        yield unsafe(
            "ports",
            f"whoever reaches this machine reaches {some(doors, 3)}",
            "let them listen on 127.0.0.1, or close these ports in the firewall",
        )


def shadows() -> Iterator[Finding]:
    """Look whether Python finds somebody else's packages before ours."""
    for name in ("flows", "tasks", "deployments"):
        if (other := shadowing(name)) is not None:
            yield wrong("python", f"another package {name!r}, {other}, comes first", "take it out of PYTHONPATH")
