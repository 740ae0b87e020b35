"""Render what `kubectl kustomize` would of the part of kustomize that infra/kubernetes keeps to, and refuse the rest.

kubectl, which has kustomize in it, is not everywhere; where it is, a test compares the two. The part: `resources`,
`namespace`, `images`, and JSON patches (RFC 6902) of one target each. Strategic merges are left out on purpose:
kustomize does them by the kind's own schema, which it has not for Ray's and Kueue's: their lists would be replaced.
"""

from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

_KEYS = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the manifests of a folder with a kustomization.yaml. Raises ValueError for what is not rendered here."""
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := {*settings} - _KEYS:
        raise ValueError(f"{folder}/kustomization.yaml: {', '.join(sorted(unknown))}: not rendered by tests/infra")
    made = [one for name in settings["resources"] for one in _resource(folder / name)]
    for manifest in made:  # kustomize does so for kinds that it does not know, whether they have a namespace or not
        if "namespace" in settings and manifest["kind"] != "Namespace":
            manifest["metadata"]["namespace"] = settings["namespace"]
    for patch in settings.get("patches", []):
        operations = yaml.safe_load((folder / patch["path"]).read_text())
        targets = [i for i, one in enumerate(made) if _is(one, patch["target"])]
        if not isinstance(operations, list) or len(targets) != 1:
            raise ValueError(f"{folder}/{patch['path']}: a list of operations on one target; it has {len(targets)}")
        made[targets[0]] = jsonpatch.apply_patch(made[targets[0]], operations)
    images = {one["name"]: f"{one['newName']}:{one['newTag']}" for one in settings.get("images", [])}
    for manifest in made:
        for container in containers(manifest):
            container["image"] = images.get(container["image"], container["image"])
    return made


def _resource(path: Path) -> list[dict[str, Any]]:
    return render(path) if path.is_dir() else deepcopy([*yaml.safe_load_all(path.read_text())])


def _is(manifest: dict[str, Any], target: dict[str, str]) -> bool:
    return manifest["kind"] == target["kind"] and manifest["metadata"].get("name") == target["name"]


def containers(value: Any) -> list[dict[str, Any]]:
    """Return every container of a manifest, however deep: members of lists named containers or initContainers."""
    if isinstance(value, list):
        return [one for member in value for one in containers(member)]
    if not isinstance(value, dict):
        return []
    own = [one for name in ("containers", "initContainers") for one in value.get(name, [])]
    return own + [one for key, member in value.items() if key != "containers" for one in containers(member)]


def pods(value: Any) -> list[dict[str, Any]]:
    """Return every pod template of a manifest, however deep: what has metadata beside a spec with containers."""
    if isinstance(value, list):
        return [one for member in value for one in pods(member)]
    if not isinstance(value, dict):
        return []
    spec = value.get("spec")
    if isinstance(spec, dict) and "containers" in spec:
        return [value]
    return [one for member in value.values() for one in pods(member)]
