"""Wheels for a CUDA machine without network: `python infra/gpu_wheels.py FOLDER core|ray|trl` (`make gpu-wheels`).

Such a machine has torch, transformers and peft, and lacks some of what we import. What it lacks travels in folders
of at most 32 MiB each, at the locked versions. Large wheels are written again: without the parts we never load (Arrow's
Flight and S3, Ray's Java and dashboard, botocore's 400 services), and compressed by LZMA, which pip reads as well.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

LIMIT = 32 << 20
LOCK = Path(__file__).parents[1] / "requirements.lock"
TAGS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")

SETS = {
    "core": (
        *("annotated-types", "botocore", "jmespath", "msgspec", "pyarrow", "pydantic", "pydantic-core", "rich"),
        "typing-inspection",
    ),
    "ray": (
        *("attrs", "jsonschema", "jsonschema-specifications", "msgpack", "ray", "referencing", "rpds-py"),
        "tensorboardx",
    ),
    # What benchmarks.gpu_train is measured against.
    "trl": (
        *("aiohappyeyeballs", "aiohttp", "aiosignal", "datasets", "dill", "frozenlist", "fsspec", "multidict"),
        *("multiprocess", "pandas", "propcache", "python-dateutil", "six", "trl", "xxhash", "yarl"),
    ),
}

UNUSED = {
    "pyarrow": re.compile(r"/(libarrow_(flight|s3)|_flight|_s3fs|include/|tests/|src/|\w+\.pxd$)"),
    "botocore": re.compile(r"/data/(?!(s3|sso|sso-oidc|sts|signin)/|[^/]+$)"),
    "ray": re.compile(r"^ray/(jars|rllib|cpp|llm|serve|dashboard/client/build|core/src/ray/thirdparty)/|\.map$"),
}


def fetch(folder: Path, names: tuple[str, ...], python: str) -> None:
    """Download wheels at the locked versions, each without what it needs: the lock names those too."""
    versions = dict(line.split("==") for line in LOCK.read_text().splitlines() if "==" in line and line[0] != "#")
    known = {name.lower().replace("_", "-"): version.strip() for name, version in versions.items()}
    platforms = [part for tag in TAGS for part in ("--platform", tag)]
    wanted = [f"{name}=={known[name]}" for name in names]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python, *platforms, "--dest", str(folder), *wanted]
    subprocess.run(command, check=True)


def slim(wheel: Path, unused: re.Pattern[str]) -> None:
    """Write a wheel again without the files that match, and its RECORD with it; smaller files for a slower start."""
    small = wheel.with_suffix(".small")
    record: list[str] = []
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(small, "w", zipfile.ZIP_LZMA) as new:
        for entry in old.infolist():
            if unused.search(entry.filename):
                continue
            content = old.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                name = entry.filename
                continue
            new.writestr(entry, content, zipfile.ZIP_LZMA)
            sha = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{entry.filename},sha256={sha},{len(content)}\n")
        new.writestr(name, "".join([*record, f"{name},,\n"]))
    small.replace(wheel)


def main() -> None:
    """Fill the folder. Exits with a line if it is larger than what travels."""
    folder, which, python = Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or ["3.12"])[0]
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()  # two versions of one package stop the whole installation
    fetch(folder, SETS[which], python)
    for wheel in folder.glob("*.whl"):
        if (unused := UNUSED.get(wheel.name.split("-")[0])) is not None:
            slim(wheel, unused)
    total = sum(wheel.stat().st_size for wheel in folder.glob("*.whl"))
    print(f"{folder}: {len([*folder.glob('*.whl')])} wheels, {total / (1 << 20):.1f} MiB")
    if total > LIMIT:
        sys.exit(f"{folder} holds {total} bytes, at most {LIMIT} travel; leave more out in infra/gpu_wheels.py")


if __name__ == "__main__":
    main()
