"""Are the files in this folder what their readers accept? Offline, stricter than the readers: unknown keys are refused.

python cluster/validate.py [--crds FOLDER]     FOLDER: ray-operator/config/crd/bases of KubeRay's repository

EC2: Ray's own schema, and botocore's of RunInstances for what Ray passes on. KubeRay: its CRDs, closed; pods: the
schemas of Kubernetes. Then what those cannot say: limits, probes, token authentication, no root. Needs .[dev].
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import yaml

FOLDER = Path(__file__).resolve().parent
KUBERNETES = "1.33"
CRDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
PLAIN = {"ServiceAccount": "v1"}

Problem = str  # "where: what"
Tree = Mapping[str, Any]


# --------------------------------------------------------------------------------------------------- Kubernetes


def close(schema: Any) -> Any:
    """A CRD's structural schema as JSON schema that refuses what it does not name.

    >>> close({"type": "object", "properties": {"a": {"x-kubernetes-int-or-string": True}}})
    {'type': 'object', 'properties': {'a': {'type': ['integer', 'string']}}, 'additionalProperties': False}
    """
    if not isinstance(schema, dict):
        return schema
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "anyOf"}
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    if "properties" in schema:
        closed["properties"] = {name: close(child) for name, child in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if key in schema:
            closed[key] = close(schema[key])
    return closed


def pod_templates(node: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod template below ``node``, with where it stands."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        where = f"{at}.{key}"
        if key in ("template", "submitterPodTemplate") and isinstance(value, dict):
            yield where, value
        else:
            yield from pod_templates(value, where)


def _strict(resource: Tree) -> Iterator[Problem]:
    try:
        kubernetes_validate.validate(dict(resource), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message.splitlines()[0][:200]}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield str(error.message)


def kubernetes(resource: Tree, *, crds: Path, ray_version: str) -> Iterator[Problem]:
    """What is wrong with one document of kuberay.yaml."""
    kind, version = resource.get("kind"), resource.get("apiVersion")
    at = f"{kind}/{resource.get('metadata', {}).get('name')}"
    if kind in PLAIN and version == PLAIN[kind]:
        yield from (f"{at}: {problem}" for problem in _strict(resource))
        return
    if kind not in CRDS or version != "ray.io/v1":
        yield f"{at}: {version}/{kind} is no kind that belongs here; expected {', '.join([*CRDS, *PLAIN])}"
        return
    wrong = False
    for error in _custom(crds / CRDS[kind]).iter_errors(resource):
        wrong = True
        yield f"{at}.{'.'.join(map(str, error.path))}: {error.message.splitlines()[0][:200]}"
    if wrong:  # the rules below rely on what the schema says
        return
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": resource["metadata"]}
    yield from (f"{at}: {problem}" for problem in _strict(metadata))
    for where, template in pod_templates(resource.get("spec", {}), at):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        yield from (f"{where}.{problem}" for problem in _strict(pod))
        yield from _pod_rules(where, template.get("spec", {}), ray="submitter" not in where)
    yield from _ray_rules(at, resource, ray_version=ray_version)


@functools.cache
def _custom(file: Path) -> Any:
    """The validator of a custom resource: ``v1`` of its definition, closed."""
    definition = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    schemas = {v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]}
    known = close(schemas["v1"])
    known["properties"]["metadata"] = {"type": "object"}  # as a ConfigMap's, which is how it is checked
    return jsonschema.Draft202012Validator(known)


def _pod_rules(at: str, spec: Tree, *, ray: bool) -> Iterator[Problem]:
    user = spec.get("securityContext", {})
    if not user.get("runAsNonRoot"):
        yield f"{at}.spec.securityContext: runAsNonRoot is missing; the image's user is 1000"
    if ray and "nodeSelector" not in spec:
        yield f"{at}.spec: nodeSelector is missing; say which machines"
    memory = {v["name"] for v in spec.get("volumes", ()) if v.get("emptyDir", {}).get("medium") == "Memory"}
    for container in spec.get("containers", ()):
        where = f"{at}.spec.containers.{container.get('name')}"
        limits, requests = (container.get("resources", {}).get(key, {}) for key in ("limits", "requests"))
        yield from _limits(where, limits, requests)
        if not re.fullmatch(r"\S+:(?!latest$)[\w.-]+(@sha256:[0-9a-f]{64})?", str(container.get("image"))):
            yield f"{where}.image: {container.get('image')}: no fixed tag"
        if container.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            yield f"{where}.securityContext: allowPrivilegeEscalation is not false"
        if not ray:
            continue
        shm = {m["name"] for m in container.get("volumeMounts", ()) if m.get("mountPath") == "/dev/shm"}
        if not shm & memory:
            yield f"{where}: no memory volume at /dev/shm; Ray's objects and the loaders' batches need it"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{where}: {probe} is missing"


def _limits(where: str, limits: Tree, requests: Tree) -> Iterator[Problem]:
    for name in ("cpu", "memory"):
        if name not in limits:
            yield f"{where}.resources.limits: {name} is missing; Ray would take the whole machine's for its own"
        if name not in requests:
            yield f"{where}.resources.requests: {name} is missing"
    for name in {*limits, *requests}:
        if name.endswith("/gpu") and limits.get(name) != requests.get(name):
            yield f"{where}.resources: {name} must be the same in limits and requests"


def _ray_rules(at: str, resource: Tree, *, ray_version: str) -> Iterator[Problem]:
    spec = resource.get("spec", {})
    job = resource["kind"] == "RayJob"
    cluster = spec.get("rayClusterSpec", {}) if job else spec
    if job and spec.get("backoffLimit", 0) < 1:
        yield f"{at}.spec.backoffLimit: is 0; a run that stopped with exit code 75 would not be resumed"
    if job and "run.name=" not in spec.get("entrypoint", ""):
        yield f"{at}.spec.entrypoint: no run.name=...; a retry resumes by name"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield f"{at}: authOptions.mode is not token; anybody in the network could run code"
    if cluster.get("rayVersion") != ray_version:
        yield f"{at}: rayVersion {cluster.get('rayVersion')}, but constraints.txt has {ray_version}"
    if not cluster.get("enableInTreeAutoscaling"):
        yield f"{at}: enableInTreeAutoscaling is not set; idle nodes would stay"
    if "limits" not in cluster.get("autoscalerOptions", {}).get("resources", {}):
        yield f"{at}: autoscalerOptions.resources.limits is missing"
    for group in cluster.get("workerGroupSpecs", ()):
        if not group.get("minReplicas", 0) <= group.get("replicas", 0) <= group.get("maxReplicas", 0):
            yield f"{at}: workers {group.get('groupName')}: expected minReplicas <= replicas <= maxReplicas"


# ---------------------------------------------------------------------------------------------------------- EC2


def ec2(config: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with a file for ``ray up`` on AWS."""
    from ray.autoscaler._private import util

    if (kind := config.get("provider", {}).get("type")) != "aws":
        yield f"provider.type: {kind}, expected aws"
        return
    try:
        util.validate_config(util.prepare_config(config))
    except jsonschema.ValidationError as error:
        yield f"{'.'.join(map(str, error.path))}: {error.message.splitlines()[0][:200]}"
        return
    except (ValueError, KeyError, RuntimeError) as error:
        yield f"{type(error).__name__}: {error}"
        return
    known = {"type", "region", "availability_zone", "cache_stopped_nodes", "security_group", "use_internal_ips"}
    yield from (f"provider.{key}: unknown" for key in config["provider"] if key not in known)
    for name, node in config["available_node_types"].items():
        yield from _instance(f"available_node_types.{name}", node, head=name == config["head_node_type"])
    spot = {n: _is_spot(node) for n, node in config["available_node_types"].items() if n != config["head_node_type"]}
    if set(spot.values()) != {True, False}:
        yield "available_node_types: expected workers on spot, and others on demand for when there is none"
    elif min(_priority(config, n) for n in spot if spot[n]) <= max(_priority(config, n) for n in spot if not spot[n]):
        yield "available_node_types: spot must have the higher priority"
    if config.get("idle_timeout_minutes", 0) < 1:
        yield "idle_timeout_minutes: is missing; idle machines would stay"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for line in config.get(key, ()):
            if "ray start" in line and "RAY_AUTH_MODE=token" not in line:
                yield f"{key}: ray start without RAY_AUTH_MODE=token"
    image = config.get("docker", {}).get("image", "")
    if not re.fullmatch(r"\S+:(?!latest$)[\w.-]+", image):
        yield f"docker.image: {image}: no fixed tag"


def _priority(config: Tree, name: str) -> int:
    return int(config["available_node_types"][name].get("priority", 0))


def _is_spot(node: Tree) -> bool:
    return bool(node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot")


@functools.cache
def _run_instances() -> Any:
    ec2 = botocore.session.get_session().get_service_model("ec2")
    return ec2.operation_model("RunInstances").input_shape


def _instance(at: str, node: Tree, *, head: bool) -> Iterator[Problem]:
    request = node["node_config"]
    report = botocore.validate.ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **request}, _run_instances())
    if report.has_errors():
        yield from (f"{at}.node_config: {line}" for line in report.generate_report().splitlines())
        return
    if "IamInstanceProfile" not in request:
        yield f"{at}.node_config: IamInstanceProfile is missing; keys would have to lie on the machine"
    if request.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield f"{at}.node_config.MetadataOptions: HttpTokens is not required"
    if not head and "max_workers" not in node:
        yield f"{at}: max_workers is missing"


# --------------------------------------------------------------------------------------------------------- main


def pinned_ray(constraints: Path) -> str:
    found = re.search(r"^ray==(\S+)", constraints.read_text(), re.MULTILINE)
    assert found is not None, constraints
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--crds", type=Path, help="folder of KubeRay's CRDs; without it kuberay.yaml is not checked")
    crds: Path | None = parser.parse_args().crds
    problems = [f"aws.yaml: {problem}" for problem in ec2(yaml.safe_load((FOLDER / "aws.yaml").read_text()))]
    if crds is not None:
        version = pinned_ray(FOLDER.parent / "constraints.txt")
        for resource in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()):
            problems += [f"kuberay.yaml: {p}" for p in kubernetes(resource, crds=crds, ray_version=version)]
    print("\n".join(problems) or ("all good" if crds else "aws.yaml is good; kuberay.yaml: give --crds"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
