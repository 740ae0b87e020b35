"""What can be held of infra/kubernetes without a cluster: schemas, and what the manifests promise.

Core kinds are held against Kubernetes' own schemas. Ray's, Kueue's and the charts' schemas are not ours to commit: they
are read from a folder beside the checkout, or REGLAGE_SCHEMAS, and skipped where there is none.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.settings import Settings
from prefect.utilities.templating import apply_values

from deployments.environment import check_pinned, read_environment
from ftlib.recipe.file import load_recipe
from ftlib.storage import Place
from ftlib.storage.claims import CLAIMS
from ftlib.storage.node_cache import record_path
from tests.infra.kustomize import containers, pods, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
SCHEMAS = Path(os.environ.get("REGLAGE_SCHEMAS") or ROOT.parent / "shared" / "reference" / "schemas")
OVERLAYS = ("dev", "production")
VERSION = "1.34"
"""Of Kubernetes: the oldest that its makers still mend at the time of writing."""
LOCK = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
TEMPLATE = json.loads((ROOT / "deployments" / "environments" / "kubernetes-job.json").read_text())


@cache
def overlay(name: str) -> list[dict[str, Any]]:
    return render(FOLDER / "overlays" / name)


@cache
def jobs() -> list[dict[str, Any]]:
    return render(FOLDER / "jobs")


def ray_job() -> dict[str, Any]:
    (job,) = [one for one in jobs() if one["kind"] == "RayJob"]
    return job


@cache
def serve() -> list[dict[str, Any]]:
    return render(FOLDER / "serve")


@cache
def run() -> dict[str, Any]:
    """Return a run's Job as the worker makes it, by the template's defaults and what the worker adds."""
    variables = TEMPLATE["variables"]["properties"]
    values = {name: field["default"] for name, field in variables.items() if "default" in field}
    values |= {"name": "tidy-otter", "image": "registry.example.com/reglage:0.2.0", "labels": {}, "annotations": {}}
    values |= {"command": ["prefect", "flow-run", "execute"]}
    values["env"] = [{"name": name, "value": value} for name, value in values["env"].items()]
    job: dict[str, Any] = apply_values(TEMPLATE["job_configuration"]["job_manifest"], values)
    return job


def values(name: str, environment: str = "dev") -> dict[str, Any]:
    """Return a chart's values as helm merges them: one file, and the overlay's upon it."""
    merged = yaml.safe_load((FOLDER / "prefect" / f"{name}.values.yaml").read_text())
    own = FOLDER / "overlays" / environment / f"prefect-{name}.values.yaml"
    return merge(merged, yaml.safe_load(own.read_text())) if own.exists() else merged


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = merge(merged[key], value) if isinstance(merged.get(key), dict) else value
    return merged


def everything(name: str) -> list[dict[str, Any]]:
    return [*overlay(name), *jobs(), *serve(), run()]


def of_kind(name: str, kind: str) -> list[dict[str, Any]]:
    return [one for one in overlay(name) if one["kind"] == kind]


def policies(name: str) -> list[dict[str, Any]]:
    return [one for one in everything(name) if one["kind"] == "NetworkPolicy"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, which has kustomize in it")
@pytest.mark.parametrize("name", ["overlays/dev", "overlays/production", "jobs", "serve"])
def test_kustomize_itself_renders_the_same(name):
    printed = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, timeout=60)
    assert not printed.returncode, printed.stderr

    def by_name(manifests):
        return {(one["kind"], one["metadata"]["name"]): one for one in manifests}

    assert by_name(yaml.safe_load_all(printed.stdout)) == by_name(render(FOLDER / name))


OF_THE_CLUSTER = {"Namespace", "ResourceFlavor", "ClusterQueue"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_the_namespace_but_what_has_none(name):
    for manifest in everything(name):
        namespace = None if manifest["kind"] in OF_THE_CLUSTER else "reglage"
        assert manifest["metadata"].get("namespace") == namespace


def is_core(manifest: dict[str, Any]) -> bool:
    return not manifest["apiVersion"].startswith(("ray.io/", "kueue.x-k8s.io/"))


@pytest.mark.parametrize("name", OVERLAYS)
def test_core_kinds_are_what_kubernetes_takes(name):
    core = [one for one in everything(name) if is_core(one)]
    assert len(core) > 15
    for manifest in core:
        kubernetes_validate.validate(manifest, VERSION, strict=True)


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_within_rays_kinds_are_what_kubernetes_takes(name):
    """The definitions of Ray's kinds have the pods' schemas in them; these here are read without that folder, too."""
    for manifest in everything(name):
        for number, pod in enumerate(pods(manifest) if not is_core(manifest) else []):
            made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": pod["spec"]}
            kubernetes_validate.validate(made, VERSION, strict=True)


def schemas(name: str) -> Path:
    if not (SCHEMAS / name).exists():
        pytest.skip(f"no {SCHEMAS / name}: the schemas of Ray, Kueue and Prefect's charts are not committed")
    return SCHEMAS / name


@pytest.mark.parametrize(
    "kind", ["rayclusters", "rayjobs", "rayservices", "clusterqueues", "localqueues", "resourceflavors"]
)
def test_rays_and_kueues_kinds_are_what_their_operators_take(kind):
    group = "ray.io" if kind.startswith("ray") else "kueue.x-k8s.io"
    file = schemas(f"{group}_{kind}.yaml")
    definition = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
    made = [one for name in OVERLAYS for one in everything(name) if one["kind"] == definition["names"]["kind"]]
    assert made
    for manifest in made:
        version = manifest["apiVersion"].rpartition("/")[2]
        (schema,) = [one["schema"]["openAPIV3Schema"] for one in definition["versions"] if one["name"] == version]
        validator = jsonschema.Draft202012Validator(closed(schema))
        validator.validate(manifest)
        assert not validator.is_valid({**manifest, "spec": {**manifest["spec"], "misspelt": 1}})


def closed(schema: Any) -> Any:
    """Let an object have no other fields than its schema names: the API server drops them without a word."""
    if isinstance(schema, list):
        return [closed(member) for member in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(member) for key, member in schema.items()}
    if made.get("x-kubernetes-int-or-string"):
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if made.get("type") == "object" and isinstance(made.get("properties"), dict):
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        if "metadata" in made["properties"]:
            made["properties"]["metadata"] = {"type": "object"}
    return made


@pytest.mark.parametrize("environment", OVERLAYS)
@pytest.mark.parametrize("name", ["server", "worker"])
def test_the_charts_take_their_values(name, environment):
    schema = json.loads(schemas(f"prefect-{name}.values.schema.json").read_text())
    schema["additionalProperties"] = False
    jsonschema.Draft202012Validator(schema).validate(values(name, environment))


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_container_is_root_or_may_become_it_and_none_writes_its_own_image(name):
    for manifest in everything(name):
        for pod in pods(manifest):
            whole = pod["spec"]["securityContext"]
            assert whole["runAsNonRoot"] is True
            assert whole["runAsUser"] >= 1000
            assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(manifest):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    (namespace,) = of_kind(name, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("chart", ["server", "worker"])
def test_the_charts_pods_are_no_less_restricted(chart):
    of = values(chart)[chart]
    assert of["podSecurityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert of["containerSecurityContext"] == {
        "runAsUser": 1001,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory", "ephemeral-storage"} == {*of["resources"]["requests"]} == {*of["resources"]["limits"]}


UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text)).groups()
    return float(number) * UNITS[unit]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_container_asks_for_what_it_needs_and_has_a_limit(name):
    for manifest in everything(name):
        for container in containers(manifest):
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= {*requests} == {*limits}
            assert all(quantity(requests[one]) <= quantity(limits[one]) for one in requests)


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_cache_stays_below_its_volume_and_volumes_below_the_pods_limit(name):
    """Where it does not, the kubelet evicts the pod before the cache makes room."""
    for manifest in everything(name):
        for pod in pods(manifest):
            sizes = {
                one["name"]: quantity(one["emptyDir"]["sizeLimit"])
                for one in pod["spec"]["volumes"]
                if "emptyDir" in one
            }
            limits = [quantity(one["resources"]["limits"]["ephemeral-storage"]) for one in pod["spec"]["containers"]]
            assert sum(sizes.values()) <= sum(limits)  # the kubelet counts a pod's volumes against its containers' sum
            if "cache" not in sizes:
                continue
            (container,) = pod["spec"]["containers"]
            quota = {one["name"]: one.get("value") for one in container["env"]}["REGLAGE_CACHE_GB"]
            assert 0.7 * sizes["cache"] < float(quota) * 1e9 < 0.97 * sizes["cache"]
            assert {"name": "cache", "mountPath": settings(name)["REGLAGE_CACHE"]} in container["volumeMounts"]


def settings(name: str) -> dict[str, str]:
    (made,) = of_kind(name, "ConfigMap")
    return made["data"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_the_worker_may_ask_kubernetes_and_only_for_jobs(name):
    (role,) = of_kind(name, "Role")
    assert not [one for one in overlay(name) if one["kind"] in {"ClusterRole", "ClusterRoleBinding"}]
    allowed = {
        (group, resource): {*rule["verbs"]}
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert allowed == {
        ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
        ("", "pods"): {"get", "list", "watch"},
        ("", "pods/log"): {"get"},
    }
    (binding,) = of_kind(name, "RoleBinding")
    assert [one["name"] for one in binding["subjects"]] == ["reglage-worker"]
    accounts = {one["metadata"]["name"]: one["automountServiceAccountToken"] for one in of_kind(name, "ServiceAccount")}
    assert {account for account, token in accounts.items() if token} == {"reglage-worker"}
    of_charts = {values("worker")["serviceAccount"]["name"]}
    used = {
        pod["spec"]["serviceAccountName"]
        for one in everything(name)
        for pod in pods(one)
        if "serviceAccountName" in pod["spec"]
    }
    assert used | of_charts == {*accounts}
    assert all(pod["spec"]["automountServiceAccountToken"] is False for one in everything(name) for pod in pods(one))
    assert not values("worker")["role"]["create"]


COMPONENT = "app.kubernetes.io/component"
CALLER = {COMPONENT: "shop", "reglage/caller": "true"}
"""A pod of somebody else's that asks what is served."""


def labels_of_pods(name: str) -> list[dict[str, str]]:
    """Return the labels of every pod that there will be, with what KubeRay and the charts add."""
    made = []
    for manifest in everything(name):
        for pod in pods(manifest):
            labels = dict(pod["metadata"]["labels"])
            if labels["app.kubernetes.io/component"] == "ray":
                head = pod["spec"]["containers"][0]["name"] == "ray-head"
                labels["ray.io/node-type"] = "head" if head else "worker"
                drawn = "" if manifest["kind"] == "RayCluster" else "-x7k2p"
                labels["ray.io/cluster"] = manifest["metadata"]["name"] + drawn
            made.append(labels)
    return [*made, {COMPONENT: "server"}, {COMPONENT: "worker"}, CALLER]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_head_has_a_disruption_budget_of_its_own(name):
    """One that selects two heads lets either go: the other one is still there."""
    budgets = [one["spec"] for one in everything(name) if one["kind"] == "PodDisruptionBudget"]
    assert [one["minAvailable"] for one in budgets] == [1, 1, 1]
    rays = [labels for labels in labels_of_pods(name) if labels[COMPONENT] == "ray"]
    chosen = [[labels for labels in rays if selects(one["selector"], labels)] for one in budgets]
    assert [len(ones) for ones in chosen] == [1, 1, 1]
    assert len({labels["ray.io/cluster"] for (labels,) in chosen}) == 3
    assert {labels["ray.io/node-type"] for (labels,) in chosen} == {"head"}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    said = selector.get("matchLabels", {}).items() <= labels.items()
    return said and all(
        one["operator"] == "In" and labels.get(one["key"]) in one["values"]
        for one in selector.get("matchExpressions", [])
    )


def allowed(name: str, labels: dict[str, str], way: str) -> list[tuple[Any, set[int]]]:
    """Return (other sides, ports) that the policies let these pods receive from, or send to; no ports: all."""
    key, side = ("ingress", "from") if way == "Ingress" else ("egress", "to")
    return [
        (rule[side], {one["port"] for one in rule.get("ports", [])})
        for policy in policies(name)
        if way in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(key, [])
    ]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_pod_is_denied_what_no_policy_allows(name):
    denials = [one["spec"] for one in policies(name) if "ingress" not in one["spec"] and "egress" not in one["spec"]]
    assert denials == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
    for labels in labels_of_pods(name):
        assert any(ports == {53} for _, ports in allowed(name, labels, "Egress"))
        assert len(allowed(name, labels, "Egress")) > 1 or labels["app.kubernetes.io/component"] in {"server", "s3"}
    for policy in policies(name):  # none that selects nothing: a label that was misspelt
        assert any(selects(policy["spec"]["podSelector"], labels) for labels in labels_of_pods(name))


def reach(name: str, one: dict[str, str], other: dict[str, str], port: int) -> bool:
    """Say whether pods of one set of labels can open a port of pods of another: both sides must allow it."""

    def within(sides: Any, labels: dict[str, str]) -> bool:
        return any(
            "podSelector" in side and not side.get("namespaceSelector") and selects(side["podSelector"], labels)
            for side in sides
        )

    sent = any(within(to, other) and (not ports or port in ports) for to, ports in allowed(name, one, "Egress"))
    taken = any(within(by, one) and (not ports or port in ports) for by, ports in allowed(name, other, "Ingress"))
    return sent and taken


@pytest.mark.parametrize("name", OVERLAYS)
def test_who_reaches_whom(name):
    head = {COMPONENT: "ray", "ray.io/node-type": "head"}
    ray = {COMPONENT: "ray", "ray.io/node-type": "worker"}
    job, worker, server, collector, other = (
        {COMPONENT: one} for one in ("run", "worker", "server", "collector", "shop")
    )
    everyone = {"head": head, "ray": ray, "run": job, "worker": worker, "server": server, "collector": collector}
    everyone |= {"caller": CALLER, "other": other}
    served = [labels for labels in labels_of_pods(name) if labels.get("app.kubernetes.io/instance") == "reglage-serve"]

    def reaching(other: dict[str, str], port: int) -> set[str]:
        return {who for who, labels in everyone.items() if reach(name, labels, other, port)}

    assert reaching(head, 8265) == {"head", "ray", "run"}
    assert reaching(head, 6379) == reaching(head, 10001) == reaching(ray, 23456) == {"head", "ray"}
    assert reaching(server, 4200) == {"run", "worker"}
    assert not [other for other in (worker, job, collector) if reaching(other, 8080)]
    assert sorted(labels["ray.io/node-type"] for labels in served) == ["head", "worker"]
    assert all(reaching(labels, 8000) == {"head", "ray", "caller"} for labels in served)
    assert not [port for port in (6379, 8265, 10001, 52365) for to in served if "caller" in reaching(to, port)]
    assert reaching(head, 8000) == reaching(ray, 8000) == {"head", "ray"}


def outside(name: str, labels: dict[str, str]) -> list[tuple[dict[str, Any], set[int]]]:
    found = allowed(name, labels, "Egress")
    return [(side["ipBlock"], ports) for sides, ports in found for side in sides if "ipBlock" in side]


@pytest.mark.parametrize("name", OVERLAYS)
def test_objects_are_reached_by_tls_and_the_nodes_own_role_by_nobody(name):
    for labels in labels_of_pods(name):
        for block, ports in outside(name, labels):
            assert ports <= {443, 6443, 5432}
            assert block["cidr"] != "0.0.0.0/0" or "169.254.0.0/16" in block["except"]
        if labels["app.kubernetes.io/component"] in {"ray", "run", "collector"}:
            assert [ports for _, ports in outside(name, labels)] == [{443}]
            assert reach("dev", labels, {"app.kubernetes.io/component": "s3"}, 9000)


NAMED = re.compile(r"\b(?:REGLAGE|RAY|PREFECT|AWS)_[A-Z0-9_]+[A-Z0-9]\b")
OF_PREFECT_KUBERNETES = {
    "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_NAME",
    "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_KEY",
}
"""Read by prefect-kubernetes 0.8.0, which the worker's image has and this environment has not."""
OF_RAY = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED"}
OF_AWS = {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_every_variable_that_is_named_is_read_by_somebody():
    """One that was misspelt, or that the code has under another name by now, does nothing and says nothing."""
    import ray

    of_ray = "".join(
        file.read_text()
        for part in ("_private/authentication", "_common/usage", "_private")
        for file in Path(ray.__file__).parent.joinpath(part).glob("*.py")
    )
    assert {one for one in OF_RAY if one not in of_ray} == set()
    ours = "".join(
        file.read_text() for folder in ("ftlib", "flows", "deployments") for file in (ROOT / folder).rglob("*.py")
    )
    of_prefect = {name for names in prefect_variables(Settings) for name in names}
    for file in [*FOLDER.rglob("*.yaml"), ROOT / "deployments" / "environments" / "kubernetes-job.json"]:
        for name in NAMED.findall(file.read_text()):
            read = {"REGLAGE": name in ours, "RAY": name in OF_RAY, "AWS": name in OF_AWS}
            read["PREFECT"] = name in of_prefect | OF_PREFECT_KUBERNETES
            assert read[name.partition("_")[0]], f"{file.relative_to(ROOT)}: nobody reads {name}"


def prefect_variables(model: Any, prefix: str = "PREFECT_") -> Any:
    """Yield the names of the variables of Prefect's settings, by group."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from prefect_variables(inner, f"{prefix}{name.upper()}_")
        else:
            yield {f"{prefix}{name.upper()}"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_what_the_code_needs_is_set_in_every_container_that_runs_it(name):
    data = settings(name)
    assert {"REGLAGE_CACHE", "REGLAGE_WORK", "REGLAGE_REGISTRY", "AWS_REGION", "RAY_AUTH_MODE", "HOME"} <= {*data}
    assert data["RAY_AUTH_MODE"] == "token"
    for manifest in everything(name):
        for container in containers(manifest):
            if "reglage-s3:" in container["image"]:
                continue
            assert {"configMapRef": {"name": "reglage-settings"}} in container["envFrom"]
            assert {"secretRef": {"name": "reglage-s3", "optional": True}} in container["envFrom"]
            assert {one["mountPath"] for one in container["volumeMounts"]} >= {"/tmp", data["HOME"]}
    (service,) = [one["spec"]["rayClusterConfig"] for one in serve() if one["kind"] == "RayService"]
    for kind in (ray_job()["spec"]["rayClusterSpec"], service, *(one["spec"] for one in of_kind(name, "RayCluster"))):
        assert kind["authOptions"] == {"mode": "token", "secretName": "reglage-ray-token"}
        assert kind["rayVersion"] == LOCK["ray"]
        assert kind["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert all({"name": "RAY_AUTH_MODE", "value": "token"} in one["env"] for one in containers(kind))
    (container,) = run()["spec"]["template"]["spec"]["containers"]
    mounted = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    path = {one["name"]: one["value"] for one in container["env"]}["RAY_AUTH_TOKEN_PATH"]
    assert path == f"{mounted['ray-token']}/auth_token"


SECRETS = {"reglage-ray-token", "reglage-s3", "reglage-prefect-auth", "reglage-prefect-database", "reglage-serve-token"}


def test_secrets_are_named_and_none_is_there():
    for file in [*FOLDER.rglob("*.yaml"), *FOLDER.rglob("*.json")]:
        text = file.read_text()
        assert "kind: Secret\n" not in text
        assert not re.search(
            r"(?i)(password|token|secret_?key|auth-?string|connection-?string):\s*[\"']?[A-Za-z0-9+/]{8,}", text
        ), file
        assert not re.search(r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20}|://[^/\s]+:[^/\s@]+@", text)
    for name in OVERLAYS:
        text = yaml.safe_dump([everything(name), values("server", name), values("worker", name)])
        named = set(re.findall(r"(?:secretName|existingSecret|SECRET_NAME\n\s+value): (\S+)", text))
        assert named <= SECRETS
    pages = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("kubernetes", "serve"))
    assert all(f"create secret generic {one} " in pages for one in SECRETS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_are_pinned_and_prefect_and_ray_are_the_locks(name):
    for manifest in everything(name):
        for container in containers(manifest):
            check_pinned(container["image"])
    assert values("server")["global"]["prefect"]["image"]["prefectTag"].startswith(f"{LOCK['prefect']}-python3.")
    assert values("worker")["worker"]["image"]["prefectTag"].startswith(f"{LOCK['prefect']}-python3.")


def test_the_overlays_differ_from_each_other_only_where_it_is_meant():
    base = {(one["kind"], one["metadata"]["name"]): one for one in render(FOLDER / "base")}
    changed, added = {}, {}
    for name in OVERLAYS:
        mine = {(one["kind"], one["metadata"]["name"]): one for one in overlay(name)}
        assert {*base} <= {*mine}
        added[name] = {kind for kind, _ in {*mine} - {*base}}
        changed[name] = {
            f"{kind} {one}" for kind, one in base if without_images(mine[kind, one]) != without_images(base[kind, one])
        }
    assert changed["dev"] == {"ConfigMap reglage-settings", "RayCluster reglage"}
    assert changed["production"] == {
        "RayCluster reglage",
        "ServiceAccount reglage-run",
        "ServiceAccount reglage-ray",
        "ServiceAccount reglage-collector",
    }
    assert added["dev"] == {"Deployment", "Service", "NetworkPolicy"}
    assert added["production"] == {"ResourceFlavor", "ClusterQueue", "LocalQueue", "NetworkPolicy"}


def without_images(manifest: dict[str, Any]) -> dict[str, Any]:
    return json.loads(re.sub(r'"image": "[^"]*"', '"image": ""', json.dumps(manifest)))


def test_a_training_of_its_own_has_the_standing_clusters_nodes():
    """But for the recipes, which its head reads, the account, since it publishes, and the label of whose it is."""
    (standing,) = [one["spec"] for one in render(FOLDER / "base") if one["kind"] == "RayCluster"]
    own = json.loads(json.dumps(ray_job()["spec"]["rayClusterSpec"]))
    head = own["headGroupSpec"]["template"]["spec"]
    assert head["containers"][0]["volumeMounts"].pop()["name"] == head["volumes"].pop()["name"] == "recipes"
    assert head.pop("serviceAccountName") == "reglage-run"
    for pod in pods(own):
        assert pod["metadata"]["labels"].pop("app.kubernetes.io/instance") == ray_job()["metadata"]["name"]
    assert standing["headGroupSpec"]["template"]["spec"].pop("serviceAccountName") == "reglage-ray"
    assert without_images(own) == without_images(standing)


def test_a_training_of_its_own_publishes_to_the_registry_and_may():
    """`reglage run` publishes where its recipe says, whatever REGLAGE_REGISTRY is."""
    spec = ray_job()["spec"]
    reglage, command, recipe, *options = shlex.split(spec["entrypoint"])
    assert (reglage, command, {*options[::2]}) == ("reglage", "run", {"--set"})
    file = ROOT / Path(recipe).relative_to("/opt/reglage")
    to = load_recipe(file, options[1::2]).publish.to.place()
    assert to == Place.parse(settings("production")["REGLAGE_REGISTRY"])
    account = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["serviceAccountName"]
    (row,) = re.findall(rf"^\| `{account}` \|.*\|(.*)\|$", (ROOT / "docs" / "kubernetes.md").read_text(), re.MULTILINE)
    roles = [Path(document).stem for document in re.findall(r"`(\w+\.json)`", row)]
    key = VERSION_KEY.replace("registry", to.prefix, 1)
    assert any(may(role, "s3:PutObject", key, **CREATE_ONLY) for role in roles)
    assert any(may(role, "s3:PutObject", "work/blobs/sha256/ab/abcd") for role in roles)


def test_kueue_can_admit_the_cluster():
    """A resource that a queue does not list is never admitted, and one that no flavor has enough of waits for ever."""
    (cluster,) = of_kind("production", "RayCluster")
    (queue,) = of_kind("production", "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    assert (
        cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        == of_kind("production", "LocalQueue")[0]["metadata"]["name"]
    )
    flavors = {one["metadata"]["name"]: one["spec"]["nodeLabels"] for one in of_kind("production", "ResourceFlavor")}
    free = {one["name"]: {r["name"]: quantity(r["nominalQuota"]) for r in one["resources"]} for one in group["flavors"]}
    assert {*free} == {*flavors}
    sets = [(1, cluster["spec"]["headGroupSpec"]["template"])]
    sets += [(one["maxReplicas"], one["template"]) for one in cluster["spec"]["workerGroupSpecs"]]
    for count, pod in sets:
        (container,) = pod["spec"]["containers"]
        asked = {one: count * quantity(text) for one, text in container["resources"]["requests"].items()}
        assert {*asked} <= {*group["coveredResources"]}
        (flavor,) = [one for one, labels in flavors.items() if labels.items() <= pod["spec"]["nodeSelector"].items()]
        assert all(amount <= free[flavor][one] for one, amount in asked.items())


@pytest.mark.parametrize("name", OVERLAYS)
def test_ray_ends_within_the_grace_that_its_pod_has(name):
    (cluster,) = of_kind(name, "RayCluster")
    for group in cluster["spec"]["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        words = " ".join(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"])
        assert (
            sum(map(int, re.findall(r"(?:sleep|--grace-period) (\d+)", words))) < pod["terminationGracePeriodSeconds"]
        )
        assert pod["terminationGracePeriodSeconds"] < 120


def statements(role: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / "iam" / f"{role}.json").read_text())["Statement"]


def may(role: str, action: str, key: str, **conditions: str) -> bool:
    """Say whether a role may do something with a key: allowed by it, and denied neither by it nor by the bucket."""
    resource = f"arn:aws:s3:::reglage-example/{key}"

    def holds(one: dict[str, Any]) -> bool:
        actions, resources = ([one[k]] if isinstance(one[k], str) else one[k] for k in ("Action", "Resource"))
        met = all(
            conditions.get(name, "true" if test == "Null" else "") == value
            for test, pairs in one.get("Condition", {}).items()
            for name, value in pairs.items()
        )
        return met and any(fnmatchcase(action, a) for a in actions) and any(fnmatchcase(resource, r) for r in resources)

    both = [*statements(role), *statements("bucket-policy")]
    return any(one["Effect"] == "Allow" and holds(one) for one in both) and not any(
        one["Effect"] == "Deny" and holds(one) for one in both
    )


VERSION_KEY = "registry/models/m/versions/00000001.json"
RECORD = f"work/{record_path('stages/train/abc')}"
CREATED_ONCE = (
    RECORD,
    f"work/{record_path('carried/abc')}",
    f"work/{CLAIMS}/train-abc/00000007.json",
    "work/place.json",
)
CREATE_ONLY = {"s3:if-none-match": "false"}


@pytest.mark.parametrize(
    ("action", "key", "roles"),
    [
        ("s3:GetObject", VERSION_KEY, {"reader", "publisher", "trainer", "collector"}),
        ("s3:PutObject", "registry/blobs/sha256/ab/abcd", {"publisher"}),
        ("s3:PutObject", "work/blobs/sha256/ab/abcd", {"trainer"}),
        ("s3:PutObject", "rows/new.jsonl", set()),
        ("s3:PutObject", "registry/probes/abc.json", {"publisher", "collector"}),  # who writes tries the KMS key first
        ("s3:PutObject", "work/probes/abc.json", {"trainer", "collector"}),
        ("s3:DeleteObject", "registry/blobs/sha256/ab/abcd", {"collector"}),
        ("s3:DeleteObject", VERSION_KEY, set()),
        ("s3:DeleteObject", "registry/models/m/aliases/champion/00000001.json", set()),
        ("s3:DeleteObject", "work/attempts/abc/checkpoints/step-00000010/rank-0", {"trainer", "collector"}),
        ("s3:DeleteObject", f"work/{CLAIMS}/train-abc/00000007.json", {"trainer", "collector"}),
        ("s3:DeleteObject", "work/exchange/0a1b/rows/0", {"trainer", "collector"}),  # rows must not stay there
        ("s3:DeleteObject", "work/jobs/ingest-abc.failed", {"trainer", "collector"}),
        ("s3:DeleteObject", "work/probes/abc", {"trainer", "collector"}),
        ("s3:DeleteObject", RECORD, {"collector"}),
        ("s3:PutObject", VERSION_KEY, set()),
        ("s3:PutObject", RECORD, set()),
    ],
)
def test_each_role_may_do_its_own_work_and_no_more(action, key, roles):
    every = {file.stem for file in (FOLDER / "iam").glob("*.json")} - {"bucket-policy"}
    assert {role for role in every if may(role, action, key)} == roles


def test_commits_are_written_create_only_or_not_at_all():
    assert may("publisher", "s3:PutObject", VERSION_KEY, **CREATE_ONLY)
    for key in CREATED_ONCE:
        assert may("trainer", "s3:PutObject", key, **CREATE_ONLY)
        assert not may("trainer", "s3:PutObject", key)
    for key in ("registry/gc/00000001.json", "work/gc/00000001.json"):
        assert may("collector", "s3:PutObject", key, **CREATE_ONLY)
        assert not may("collector", "s3:PutObject", key)
    for role in ("reader", "publisher", "trainer", "collector"):
        for one in statements(role):
            actions = [one["Action"]] if isinstance(one["Action"], str) else one["Action"]
            assert all("*" not in action for action in actions)


def test_every_night_both_collectors_run_as_the_role_that_may_delete():
    (job,) = of_kind("production", "CronJob")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "reglage-collector"
    assert [" ".join(one["command"][3:]) for one in pod["containers"]] == [
        "reglage registry gc --delete",
        "reglage work gc --yes",
    ]
    for key in ("blobs/sha256/ab/abcd", "exchange/ab/rows-1", "jobs/ingest-abc.failed.json", "attempts/abc/stop"):
        assert may("collector", "s3:DeleteObject", f"work/{key}")


def exported() -> dict[str, str]:
    """Return the variables that the page exports before it applies the environment of production."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (said,) = re.findall(r"((?:^export .*\n)+)python -m deployments\.deploy apply production$", page, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", said))


def test_what_production_retrains_on_is_where_a_run_can_read_it(monkeypatch):
    """A run's container has the recipes mounted, and no rows."""
    monkeypatch.chdir(ROOT)
    (listed,) = [one for one in statements("trainer") if one["Action"] == "s3:ListBucket"]
    production = read_environment("production", exported())
    for one in production.recipes:
        recipe = load_recipe(one.recipe, one.overrides)
        for part in recipe.datasets.values():
            place = part.source.place()
            assert (place.scheme, place.bucket) == ("s3", "reglage-example")
            assert may("trainer", "s3:GetObject", f"{place.key}2026-03-01.jsonl")
            assert any(fnmatchcase(place.key, prefix) for prefix in listed["Condition"]["StringLike"]["s3:prefix"])


def test_the_environments_fit_the_pool_the_worker_polls(monkeypatch):
    monkeypatch.chdir(ROOT)
    dev = read_environment(FOLDER / "overlays" / "dev" / "environment.yaml", {})
    (image,) = {c["image"] for one in overlay("production") for c in containers(one)}
    production = read_environment("production", {**exported(), "REGLAGE_IMAGE": image})
    assert production.work == settings("production")["REGLAGE_WORK"]
    assert production.registry == settings("production")["REGLAGE_REGISTRY"]
    for name, environment in (("dev", dev), ("production", production)):
        assert environment.pool.template() == TEMPLATE
        assert environment.pool.type == values("worker", name)["worker"]["config"]["type"]
        assert environment.pool.name == values("worker", name)["worker"]["config"]["workPool"]
    assert dev.work == settings("dev")["REGLAGE_WORK"]
    assert dev.registry == settings("dev")["REGLAGE_REGISTRY"]
    assert dev.endpoint_url == settings("dev")["AWS_ENDPOINT_URL"]
    assert {dev.pool.image} <= {c["image"] for one in overlay("dev") for c in containers(one)}


@pytest.mark.slow
def test_the_dev_clusters_s3_server_can_hold_a_registry():
    """moto as it comes races its own conditional writes; one request at a time it does not."""
    (server,) = [one for one in of_kind("dev", "Deployment") if one["metadata"]["name"] == "reglage-s3"]
    (container,) = containers(server)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = container["command"][2].replace('"0.0.0.0", 9000', f'"127.0.0.1", {port}')
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto:
        try:
            given = {"AWS_ACCESS_KEY_ID": "dev", "AWS_SECRET_ACCESS_KEY": "dev", "AWS_DEFAULT_REGION": "us-east-1"}
            environment = {**os.environ, **given, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
            for _ in range(150):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.2)
            make = "import boto3; boto3.client('s3').create_bucket(Bucket='models')"
            subprocess.run([sys.executable, "-c", make], env=environment, check=True, timeout=60)
            probe = [
                sys.executable,
                "-m",
                "ftlib",
                "registry",
                "probe",
                "--registry",
                settings("dev")["REGLAGE_REGISTRY"],
            ]
            done = subprocess.run(probe, env=environment, capture_output=True, text=True, timeout=120)
            assert not done.returncode, done.stderr
        finally:
            moto.terminate()
