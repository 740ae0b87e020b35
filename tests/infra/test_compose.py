"""What can be held of the compose file without a Docker engine: that it parses, and the rules it promises."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert {name for name, value in example.items() if value} == {"REGLAGE_VERSION"}


@pytest.mark.parametrize("name", ["ray-head", "ray-worker", "worker"])
def test_ray_asks_for_its_token_everywhere(name):
    environment = SERVICES[name]["environment"]
    assert environment["RAY_AUTH_MODE"] == "token"
    assert environment["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")


def test_the_work_folder_has_one_path_for_all_who_train():
    mounts = [SERVICES[name]["volumes"] for name in ("ray-head", "ray-worker", "worker")]
    assert all("work:/opt/reglage/work" in volumes for volumes in mounts)


def test_the_image_installs_under_the_lock_and_does_not_run_as_root():
    text = (INFRA / "Dockerfile").read_text()
    locked = re.search(r"^torch==(.+)$", (INFRA.parent / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert f'"torch=={locked[1]}"' in text
    assert "pip install -c requirements.lock" in text
    assert text.index("USER reglage") < text.index("ENTRYPOINT")
