"""The operator's files are what their readers accept, and planted mistakes are refused."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml

from cluster import validate
from tests.support.paths import ROOT

FOLDER = ROOT / "cluster"
RAY = validate.pinned_ray(ROOT / "constraints.txt")


@pytest.fixture(scope="module")
def crds() -> Path:
    folder = ROOT.parent / "shared" / "schemas" / "kuberay"
    if not folder.is_dir():
        pytest.skip(f"no CRDs of KubeRay: {folder.relative_to(ROOT.parent)} is absent beside the checkout")
    return folder


@pytest.fixture(scope="module")
def kuberay() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}


def aws() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((FOLDER / "aws.yaml").read_text())
    return config


def changed(tree: Any, path: str, value: Any) -> Any:
    """A copy with ``value`` at the dotted ``path``; None removes what is there."""
    tree = copy.deepcopy(tree)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    node = tree
    for step in steps:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return tree


# ----------------------------------------------------------------------------------------------------- KubeRay


def test_kuberay_is_valid(kuberay: dict[str, Any], crds: Path) -> None:
    assert list(kuberay) == ["ServiceAccount", "RayCluster", "RayJob"]
    for resource in kuberay.values():
        assert list(validate.kubernetes(resource, crds=crds, ray_version=RAY)) == []


def test_the_jobs_cluster_is_the_cluster(kuberay: dict[str, Any]) -> None:
    assert kuberay["RayJob"]["spec"]["rayClusterSpec"] == kuberay["RayCluster"]["spec"]


HEAD = "spec/headGroupSpec/template/spec"
WORKER = "spec/workerGroupSpecs/0/template/spec"


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("RayCluster", "kind", "RayClusters", "no kind that belongs here"),
        ("RayCluster", "kind", "Deployment", "no kind that belongs here"),
        ("RayCluster", "apiVersion", "ray.io/v1alpha1", "no kind that belongs here"),
        ("RayCluster", "spec/headGroup", {}, "'headGroup' was unexpected"),
        ("RayCluster", "metadata/label", {}, "'label' was unexpected"),
        ("RayCluster", "spec/headGroupSpec/rayStartParam", {}, "'rayStartParam' was unexpected"),
        ("RayCluster", "spec/workerGroupSpecs/0/maxReplica", 3, "'maxReplica' was unexpected"),
        ("RayCluster", "spec/workerGroupSpecs/0/maxReplicas", "16", "is not of type 'integer'"),
        ("RayCluster", "spec/workerGroupSpecs/0/groupName", None, "'groupName' is a required property"),
        ("RayCluster", "spec/workerGroupSpecs/0/replicas", 17, "minReplicas <= replicas <= maxReplicas"),
        ("RayCluster", "spec/autoscalerOptions/version", "v3", "'v3' is not one of"),
        ("RayCluster", "spec/autoscalerOptions/idleTimeout", 1, "'idleTimeout' was unexpected"),
        ("RayCluster", "spec/autoscalerOptions/resources/limits", None, "limits is missing"),
        ("RayCluster", "spec/enableInTreeAutoscaling", False, "idle nodes would stay"),
        ("RayCluster", "spec/authOptions", None, "authOptions.mode is not token"),
        ("RayCluster", "spec/authOptions/mode", "disabled", "authOptions.mode is not token"),
        ("RayCluster", "spec/rayVersion", "2.50.0", f"constraints.txt has {RAY}"),
        ("RayCluster", f"{HEAD}/nodeSelectors", {}, "'nodeSelectors' was unexpected"),
        ("RayCluster", f"{HEAD}/nodeSelector", None, "nodeSelector is missing"),
        ("RayCluster", f"{HEAD}/containers/0/resources", None, "limits: memory is missing"),
        ("RayCluster", f"{WORKER}/containers/0/resources/limits/memory", None, "limits: memory is missing"),
        ("RayCluster", f"{WORKER}/containers/0/resources/limits/memory", "lots", "does not match"),
        ("RayCluster", f"{WORKER}/containers/0/resources/requests/nvidia.com~1gpu", "1", "must be the same"),
        ("RayCluster", f"{WORKER}/containers/0/resources/limit", {}, "'limit' was unexpected"),
        ("RayCluster", f"{WORKER}/containers/0/livenessProbe", None, "livenessProbe is missing"),
        ("RayCluster", f"{WORKER}/containers/0/livenessProbe/httpGet/url", "/", "'url' was unexpected"),
        ("RayCluster", f"{WORKER}/containers/0/image", "icon-dist:latest", "no fixed tag"),
        ("RayCluster", f"{WORKER}/containers/0/image", "icon-dist", "no fixed tag"),
        ("RayCluster", f"{WORKER}/volumes", [], "no memory volume at /dev/shm"),
        ("RayCluster", f"{WORKER}/securityContext/runAsNonRoot", None, "runAsNonRoot is missing"),
        ("RayCluster", f"{WORKER}/containers/0/securityContext", None, "allowPrivilegeEscalation is not false"),
        ("RayJob", "spec/backoffLimits", 1, "'backoffLimits' was unexpected"),
        ("RayJob", "spec/backoffLimit", 0, "would not be resumed"),
        ("RayJob", "spec/entrypoint", "python -m icon_dist.train --cfg coco", "no run.name"),
        ("RayJob", "spec/submitterPodTemplate/spec/containers/0/resources/limits/cpu", None, "limits: cpu is missing"),
        ("RayJob", "spec/rayClusterSpec/headGroupSpec/template/spec/container", [], "'container' was unexpected"),
        ("ServiceAccount", "metadata/annotation", {}, "'annotation' was unexpected"),
        ("ServiceAccount", "kind", "Role", "no kind that belongs here"),
    ],
)
def test_a_mistake_in_kuberay_is_refused(
    kind: str, path: str, value: Any, said: str, kuberay: dict[str, Any], crds: Path
) -> None:
    resource = changed(kuberay[kind], path, value)
    if "~1" in path:  # a key with a slash
        resource = copy.deepcopy(kuberay[kind])
        resource["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["requests"][
            "nvidia.com/gpu"
        ] = value
    problems = list(validate.kubernetes(resource, crds=crds, ray_version=RAY))
    assert any(said in problem for problem in problems), problems


# --------------------------------------------------------------------------------------------------------- EC2


def test_aws_is_valid() -> None:
    assert list(validate.ec2(aws())) == []


SPOT = "available_node_types/gpu-spot"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("max_worker", 3, "'max_worker' was unexpected"),
        ("max_workers", "16", "is not of type 'integer'"),
        ("provider/type", "kuberay", "expected aws"),
        ("provider/regions", "us-west-2", "provider.regions: unknown"),
        ("head_node_type", "boss", "`head_node_type` must be one of"),
        ("docker/images", "x", "'images' was unexpected"),
        ("docker/image", "icon-dist:latest", "no fixed tag"),
        ("idle_timeout_minutes", 0, "idle machines would stay"),
        (f"{SPOT}/min_worker", 1, "'min_worker' was unexpected"),
        (f"{SPOT}/min_workers", 17, "`max_workers` is smaller than"),
        (f"{SPOT}/max_workers", None, "max_workers is missing"),
        (f"{SPOT}/resources", None, "'resources' is a required property"),
        (f"{SPOT}/priority", 0, "spot must have the higher priority"),
        (f"{SPOT}/node_config/InstanceKind", "g6.12xlarge", 'Unknown parameter in input: "InstanceKind"'),
        (f"{SPOT}/node_config/InstanceMarketOptions/MaxPrice", "1", "Unknown parameter in InstanceMarketOptions"),
        (f"{SPOT}/node_config/InstanceMarketOptions", None, "workers on spot"),
        (f"{SPOT}/node_config/IamInstanceProfile", None, "IamInstanceProfile is missing"),
        (f"{SPOT}/node_config/MetadataOptions/HttpTokens", "optional", "HttpTokens is not required"),
        ("worker_start_ray_commands/1", "ray start --address=$RAY_HEAD_IP:6379", "without RAY_AUTH_MODE=token"),
    ],
)
def test_a_mistake_in_aws_is_refused(path: str, value: Any, said: str) -> None:
    problems = list(validate.ec2(changed(aws(), path, value)))
    assert any(said in problem for problem in problems), problems


def test_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "cluster/validate.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "aws.yaml is good" in done.stdout


def test_the_policy_is_what_the_code_calls() -> None:
    """Each S3 call of icon_dist.storage has its action in the policy, and no action is there for nothing."""
    actions = {
        "head_object": {"s3:GetObject"},
        "get_object": {"s3:GetObject"},
        "put_object": {"s3:PutObject"},
        "upload_fileobj": {"s3:PutObject", "s3:AbortMultipartUpload"},
        "delete_object": {"s3:DeleteObject"},
        "list_objects": {"s3:ListBucket"},
        "list_objects_v2": {"s3:ListBucket"},
    }
    source = "".join(file.read_text() for file in (ROOT / "icon_dist" / "storage").glob("s3*.py"))
    called = set(re.findall(r"\bclient\(\)\s*\.(\w+)", source))
    policy = json.loads((FOLDER / "s3-policy.json").read_text())
    allowed = set()
    for statement in policy["Statement"]:
        own = statement["Action"]
        allowed |= {own} if isinstance(own, str) else set(own)
        assert "*" not in allowed
    assert set().union(*(actions[name] for name in called)) == allowed
    s3 = botocore.session.get_session().get_service_model("s3")
    assert {"HeadObject", "ListObjectsV2"} <= set(s3.operation_names)


# -------------------------------------------------------------------------------------------- shell and Dockerfile


def lint(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / tool
    if not program.exists():
        pytest.skip(f"{tool} is not installed; it comes with .[dev]")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_shellcheck(tmp_path: Path) -> None:
    done = lint("shellcheck", str(FOLDER / "slurm.sh"))
    assert done.returncode == 0, done.stdout
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -rf $1/*\n")
    assert lint("shellcheck", str(tmp_path / "bad.sh")).returncode == 1


def dockerfile(text: str) -> list[str]:
    """What hadolint does not look at."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    problems = [] if users and users[-1] not in ("root", "0") else ["runs as root"]
    problems += [] if any(line.startswith("HEALTHCHECK ") for line in lines) else ["no HEALTHCHECK"]
    problems += [f"not exact: {line}" for line in lines if re.match(r"FROM (?!\S+:\S*\d+\.\d+\.\d+)", line)]
    for line in lines:
        if "pip install" in line and not ("--constraint constraints.txt" in line or "--no-deps" in line):
            problems.append(f"not pinned: {line}")
    return problems


def test_dockerfile(tmp_path: Path) -> None:
    text = (FOLDER / "Dockerfile").read_text()
    done = lint("hadolint", str(FOLDER / "Dockerfile"))
    assert done.returncode == 0, done.stdout
    assert dockerfile(text) == []
    assert dockerfile(text.replace("USER 1000", "")) == ["runs as root"]
    assert dockerfile(text.replace("HEALTHCHECK", "# ")) == ["no HEALTHCHECK"]
    assert len(dockerfile(text.replace("--constraint constraints.txt", ""))) == 1
    assert len(dockerfile(text.replace(":13.0.1-base", ":latest-base"))) == 1
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\nRUN cd /x && sudo pip install torch\n")
    assert lint("hadolint", str(tmp_path / "Dockerfile")).returncode == 1


def test_the_image_gets_what_it_copies_and_no_more() -> None:
    ignore = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in ignore if not line.startswith("#")) == "*"
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = set()
    for line in (FOLDER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
RAY_COMMAND = """#!/usr/bin/env bash
while [[ $1 != -- ]]; do shift; done
shift
"$@"
"""
PYTHON = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then exec REAL "$@"; fi
echo "driver: $*"
trap 'echo saved; exit 75' TERM
if [[ $* == *quick* ]]; then exit 3; fi
for _ in $(seq 200); do sleep 0.05; done
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then echo node1; echo node2; else echo "scontrol $*"; fi
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment as Slurm's, with one machine behind it."""
    programs = {
        "srun": SRUN,
        "ray": RAY_COMMAND,
        "scontrol": SCONTROL,
        "python": PYTHON.replace("REAL", sys.executable),
    }
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    for name, text in programs.items():
        program = tmp_path / "venv" / "bin" / name
        program.write_text(text)
        program.chmod(0o755)
    return {
        "PATH": os.environ["PATH"],
        "VENV": str(tmp_path / "venv"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
    }


def test_slurm_stops_the_driver_and_queues_again(slurm: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = ["bash", str(FOLDER / "slurm.sh"), "--cfg", "coco", "run.name=a b"]
    with log.open("w") as out:
        batch = subprocess.Popen(command, env=slurm, stdout=out, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 20
    while "driver:" not in log.read_text():
        assert batch.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    assert len((tmp_path / ".slurm-17" / "token").read_text().strip()) == 64
    assert (tmp_path / ".slurm-17" / "token").stat().st_mode & 0o077 == 0
    time.sleep(0.1)
    batch.send_signal(signal.SIGTERM)  # as --signal=B:TERM does: to the batch shell alone
    assert batch.wait(20) == 75
    text = log.read_text()
    assert "driver: -m icon_dist.train --cfg coco run.name=a b\n" in text
    assert text.index("asked to stop") < text.index("saved") < text.index("scontrol requeue 17")
    assert not (tmp_path / ".slurm-17").exists()


def test_slurm_ends_as_the_run_ends(slurm: dict[str, str]) -> None:
    command = ["bash", str(FOLDER / "slurm.sh"), "--cfg", "quick"]
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "requeue" not in done.stdout
    assert subprocess.run(command[:2], env=slurm, capture_output=True, check=False).returncode == 2
