"""infra/kubernetes/serve: what KubeRay's schema takes, and what the served application itself takes."""

from __future__ import annotations

from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ftlib.recipe.file import load_recipe
from ftlib.serving.plan import ServingPlan
from tests.infra.kustomize import pods, render
from tests.infra.test_kubernetes import FOLDER, LOCK, ROOT, VERSION, closed, may, schemas, settings


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    (made,) = [one for one in render(FOLDER / "serve") if one["kind"] == "RayService"]
    return made


def test_it_is_what_kuberay_takes(service: dict[str, Any]) -> None:
    definition = yaml.load(schemas("ray.io_rayservices.yaml").read_text(), yaml.CSafeLoader)["spec"]
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in definition["versions"] if one["name"] == "v1"]
    validator = jsonschema.Draft202012Validator(closed(schema))
    validator.validate(service)
    assert not validator.is_valid({**service, "spec": {**service["spec"], "misspelt": 1}})


def test_its_pods_are_what_kubernetes_takes(service: dict[str, Any]) -> None:
    found = pods(service)
    assert len(found) == 2
    for pod in found:
        made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod["spec"]}
        kubernetes_validate.validate(made, VERSION, strict=True)
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert all(one["image"].startswith("registry.example.com/reglage:") for one in pod["spec"]["containers"])


def test_the_application_is_what_ray_serve_and_we_take(service: dict[str, Any]) -> None:
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    schema = pytest.importorskip("ray.serve.schema")
    schema.ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    from ftlib.on_ray import serving

    assert application["import_path"] == f"{serving.__name__}:{serving.application.__name__}"
    taken = serving.Serving.model_validate(application["args"])
    plan = ServingPlan.model_validate(taken.spec)
    assert plan.token_file is not None
    assert serving.application(application["args"])
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == LOCK["ray"]
    workers = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    (container,) = workers["template"]["spec"]["containers"]
    assert int(container["resources"]["requests"]["cpu"]) * workers["replicas"] >= taken.replicas * taken.threads


def test_what_is_served_and_where_it_is_logged_are_places_of_the_other_manifests(service: dict[str, Any]) -> None:
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    plan = ServingPlan.model_validate(application["args"]["spec"])
    assert plan.name == load_recipe(ROOT / "recipes" / "quickstart.yaml").publish.name
    assert plan.registry == settings("production")["REGLAGE_REGISTRY"]
    work, _, log = str(plan.log).partition("/work/")
    assert f"{work}/work" == settings("production")["REGLAGE_WORK"]
    assert {pod["spec"]["serviceAccountName"] for pod in pods(service)} == {"reglage-ray"}
    assert may("trainer", "s3:PutObject", f"work/{log}/answers/a.jsonl")  # reglage-ray's role
    assert may("trainer", "s3:GetObject", "registry/blobs/sha256/ab/abcd")


def test_callers_are_told_the_name_that_kuberay_gives(service: dict[str, Any]) -> None:
    told = f"http://{service['metadata']['name']}-serve-svc.{service['metadata']['namespace']}:8000"
    assert told in (FOLDER / "serve" / "ray-service.yaml").read_text()
    assert f"`{told}`" in (ROOT / "docs" / "serve.md").read_text()
