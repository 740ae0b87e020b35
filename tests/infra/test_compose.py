"""What can be held of the compose file without a Docker engine: that it parses, and the rules it promises."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from deployments.deployment import STANDING
from ftlib.recipe.file import load_recipe
from tests.infra.kustomize import render

INFRA = Path(__file__).parents[2] / "infra"
TEXT = (INFRA / "compose.yaml").read_text()
SERVICES: dict[str, Any] = yaml.safe_load(TEXT)["services"]


def test_the_parts_are_there():
    assert set(SERVICES) == {"postgres", "prefect", "s3", "ray-head", "ray-worker", "worker"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_the_loopback_only(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "ray-worker"])
def test_every_service_that_others_wait_for_says_when_it_is_healthy(name):
    assert SERVICES[name]["healthcheck"]["test"]


def test_who_is_waited_for_exists_and_has_a_healthcheck():
    for service in SERVICES.values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_versions(name):
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert tag
    assert tag != "latest"


def test_secrets_come_from_the_environment_and_the_example_has_none():
    variables = set(re.findall(r"\$\{(\w+)", TEXT))
    example = dict(line.split("=", 1) for line in (INFRA / "env.example").read_text().splitlines() if "=" in line[:30])
    assert variables == set(example)
    assert {name for name, value in example.items() if value} == {"REGLAGE_PROJECT"}


@pytest.mark.parametrize("name", ["ray-head", "ray-worker", "worker"])
def test_ray_asks_for_its_token_everywhere(name):
    environment = SERVICES[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_the_work_folder_has_one_path_for_all_who_train():
    mounts = [SERVICES[name]["volumes"] for name in ("ray-head", "ray-worker", "worker")]
    assert all("work:/opt/reglage/work" in volumes for volumes in mounts)


def test_rows_and_models_have_one_path_for_all_who_prepare_and_train():
    """With `data_workers` a job on Ray's head lists the rows, and Ray's workers read them."""
    for name in ("ray-head", "ray-worker", "worker"):
        mounted = dict(volume.rpartition(":/")[::2] for volume in SERVICES[name]["volumes"])
        for folder in ("rows", "models"):
            (place,) = [place for place in mounted if place.endswith(f"/{folder}")]
            assert place.startswith("${REGLAGE_PROJECT")
            assert mounted[place] == f"opt/reglage/{folder}:ro"


def test_what_must_outlive_a_container_is_on_a_volume():
    """Prefect's leases are files below PREFECT_HOME: without them a server that is made anew blocks later runs."""
    volumes = {name: dict(v.split(":")[:2] for v in one.get("volumes", [])) for name, one in SERVICES.items()}
    assert volumes["prefect"] == {"prefect": SERVICES["prefect"]["environment"]["PREFECT_HOME"]}
    assert {"work", "registry"} <= volumes["worker"].keys()
    named = {name for mounted in volumes.values() for name in mounted if re.fullmatch(r"\w+", name)}
    assert named == set(yaml.safe_load(TEXT)["volumes"])


def test_recipes_rows_and_models_are_mounted_so_that_none_needs_a_new_image():
    mounted = [volume for volume in SERVICES["worker"]["volumes"] if volume.endswith(":ro")]
    assert [volume.rpartition("/opt/reglage/")[2] for volume in mounted] == ["recipes:ro", "rows:ro", "models:ro"]
    assert all(volume.startswith("${REGLAGE_PROJECT") for volume in mounted)


def test_rays_objects_fit_into_its_shared_memory():
    for name in ("ray-head", "ray-worker"):
        command = SERVICES[name]["command"]
        size = int(command[command.index("--object-store-memory") + 1])
        assert size < int(SERVICES[name]["shm_size"].removesuffix("gb")) << 30


def test_images_that_stand_in_are_of_services_that_there_are():
    stand_ins = yaml.safe_load((INFRA / "compose.debian.yaml").read_text())["services"]
    assert {name: [*one] for name, one in stand_ins.items()} == {"postgres": ["image"], "s3": ["image"]}
    script = (INFRA / "container.sh").read_text()
    assert all(f"--tag {one['image']} " in script for one in stand_ins.values())
    assert not subprocess.run(["bash", "-n", INFRA / "container.sh"]).returncode


DOCKERFILE = (INFRA / "Dockerfile").read_text()


def test_the_image_installs_under_the_lock_and_does_not_run_as_root():
    locked = re.search(r"^torch==(.+)$", (INFRA.parent / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert f'"torch=={locked[1]}"' in DOCKERFILE
    assert "pip install -c /usr/local/share/reglage/requirements.lock" in DOCKERFILE
    assert DOCKERFILE.index("USER reglage") < DOCKERFILE.index("ENTRYPOINT")


def test_the_image_has_the_extras_that_its_flows_and_manifests_need():
    """Without optuna the deployment search/search is refused, and without its extra Ray Serve cannot be imported."""
    listed = re.search(r"^ARG EXTRAS=(.*)$", DOCKERFILE, re.MULTILINE)
    assert listed is not None
    lists = tomllib.loads((INFRA.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = {name: [Requirement(line) for line in lists[name]] for name in listed[1].split(",")}
    had = {(one.name, extra) for ones in extras.values() for one in ones for extra in one.extras or {""}}
    assert "search" in STANDING
    assert ("optuna", "") in had
    (service,) = [one for one in render(INFRA / "kubernetes" / "serve") if one["kind"] == "RayService"]
    assert "ftlib.on_ray.serving" in service["spec"]["serveConfigV2"]
    assert ("ray", "serve") in had
    base = load_recipe(INFRA.parent / "recipes" / "quickstart.yaml").model.path
    assert any(base.startswith(f"package:{name.replace('-', '_')}/") for name, _ in had)
    assert {f"adbc-driver-{system}" for system in ("postgresql", "sqlite")} <= {name for name, _ in had}


def test_the_image_has_the_programs_that_others_start_in_it():
    """tini is its entry point; KubeRay's readiness probe of a RayService's worker is `wget ... | grep success`."""
    (installed,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) *\\?$", DOCKERFILE, re.MULTILINE)
    assert {"tini", "wget"} <= {*installed.split()}


def test_pips_settings_are_a_secret_of_the_build_and_in_no_layer():
    fetching = [line for line in re.split(r"(?<!\\)\n", DOCKERFILE) if re.search(r"pip (install|wheel)", line)]
    assert all("--mount=type=secret,id=pip" in line or "--no-index" in line for line in fetching)
    assert "pip.conf" not in re.sub(r"--mount=\S+", "", DOCKERFILE)


def test_what_compose_starts_is_what_make_built_with_its_commit():
    """An image that compose built itself would have another tag and no commit, which versions then lack."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=INFRA, capture_output=True, text=True).stdout.strip()
    if not commit:
        pytest.skip("no repository of git")
    said = subprocess.run(["make", "-s", "image", "ENGINE=echo"], cwd=INFRA.parent, capture_output=True, text=True)
    built = re.search(r"--build-arg REGLAGE_COMMIT=(\w+)(-dirty)? -t reglage:(\w+)(-dirty)? ", said.stdout)
    assert built is not None, said.stdout + said.stderr
    assert (built[1], built[2]) == (commit, built[4])
    assert commit.startswith(built[3])
    ours = [one for one in SERVICES.values() if one["image"].startswith("reglage:")]
    assert {one["image"].partition(":?")[0] for one in ours} == {"reglage:${REGLAGE_VERSION"}
    assert not [one for one in SERVICES.values() if "build" in one]
    page = (INFRA.parent / "docs" / "containers.md").read_text()
    first, *_, last = re.findall(r"^(make image|docker compose .*)", page.partition("```bash")[2], re.MULTILINE)
    assert (first, "--build" in last) == ("make image", False)


def test_the_build_takes_the_commit_and_what_it_copies_reaches_it():
    assert "ARG REGLAGE_COMMIT" in DOCKERFILE
    sent = {line[1:] for line in (INFRA.parent / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY") and "--from" not in line
    ]
    assert {name for names in copied for name in names} == sent
    assert all((INFRA.parent / name).exists() for name in sent)
