"""launch/gke_jobset.yaml against Kubernetes' schemas, and its values against each other."""

import base64
import json
import math
import os
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tga_jax.cli.flags import parse_with_config
from tga_jax.train import distributed

FILE = Path(__file__).resolve().parents[2] / "launch" / "gke_jobset.yaml"
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
KUBERNETES = "1.31"  # the oldest that has all the fields is enough


def jobsets() -> dict[str, dict]:
    """By the label that kubectl chooses one with."""
    return {one["metadata"]["labels"]["accelerator"]: one for one in yaml.safe_load_all(FILE.read_text())}


def job(jobset: dict) -> dict:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]


def pod(jobset: dict) -> dict:
    return job(jobset)["spec"]["template"]["spec"]


def container(jobset: dict) -> dict:
    (one,) = pod(jobset)["containers"]
    return one


def validate(jobset: dict) -> None:
    jsonschema.validate(jobset, SCHEMA)
    for replicated in jobset["spec"]["replicatedJobs"]:
        full = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}} | replicated["template"]
        kubernetes_validate.validate(full, KUBERNETES, strict=True)


@pytest.fixture(params=["tpu", "gpu"])
def jobset(request) -> dict:
    return jobsets()[request.param]


def test_valid(jobset):
    validate(jobset)


@pytest.mark.parametrize("change", ["jobset field", "rule name", "job field", "container field", "container type"])
def test_the_validation_finds(jobset, change):
    spec = jobset["spec"]
    if change == "jobset field":
        spec["failurePolicy"]["maxRestart"] = 1
    elif change == "rule name":
        spec["failurePolicy"]["rules"][0]["name"] = "no-hyphens"
    elif change == "job field":
        job(jobset)["spec"]["backofLimit"] = 0
    elif change == "container field":
        container(jobset)["arguments"] = []
    else:
        container(jobset)["args"] = "train"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(jobset)


def test_all_pods_start_anew_together(jobset):
    spec = job(jobset)["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert pod(jobset)["restartPolicy"] == "Never"  # podFailurePolicy needs it


def test_what_is_mounted_is_a_volume(jobset):
    mounted = {mount["name"] for mount in container(jobset)["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod(jobset)["volumes"]}
    (workdir,) = (flag for flag in container(jobset)["args"] if flag.startswith("--workdir="))
    assert workdir.removeprefix("--workdir=").startswith("/mnt/shared/")
    assert "/mnt/shared" in {mount["mountPath"] for mount in container(jobset)["volumeMounts"]}


def test_the_arguments_are_the_programs(jobset):
    command, *flags = container(jobset)["args"]
    assert command == "train"
    _, values = parse_with_config(
        [flag.replace("=configs/", f"={FILE.parents[1]}/configs/") for flag in flags],
        {"workdir": "", "distributed": False},
        None,
    )
    assert values.distributed


def test_the_processes_of_gpu_nodes_find_each_other():
    jobset = jobsets()["gpu"]
    name, replicated = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
    env = {one["name"]: one for one in container(jobset)["env"]}
    assert set(env) == set(distributed.VARIABLES)
    assert int(env["JAX_NUM_PROCESSES"]["value"]) == job(jobset)["spec"]["completions"]
    host, port = env["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
    assert host == f"{name}-{replicated}-0-0.{name}"  # the first pod, by JobSet's headless service
    assert int(port) in {one["containerPort"] for one in container(jobset)["ports"]}


def test_the_secret_is_the_one_that_the_script_makes(jobset):
    [source] = container(jobset)["envFrom"]
    assert source == {"secretRef": {"name": "tga-env", "optional": True}}


KUBECTL = """#!/bin/sh
echo "$*" >>"$LOG.calls"
tr '\\0' ' ' </proc/$PPID/cmdline >>"$LOG.calls"
cat >"$LOG.stdin"
"""


@pytest.fixture
def secret(tmp_path):
    """Runs gke_secret.sh; (what it did, kubectl's arguments and standard input)."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)

    def run(*names, **env):
        full = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")} | env
        script = ["bash", str(FILE.parent / "gke_secret.sh"), *names]
        done = subprocess.run(script, env=full, capture_output=True, text=True)
        files = [tmp_path / "log.calls", tmp_path / "log.stdin"]
        return done, *(file.read_text() if file.exists() else "" for file in files)

    return run


def test_variables_go_to_the_cluster_by_standard_input_alone(secret):
    odd = 'it\'s $HOME; a\n"second" line'
    done, calls, given = secret("ODD", HF_TOKEN="hf_secret", ODD=odd)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "in the Secret tga-env: HF_TOKEN ODD\n"
    assert calls.startswith("apply --server-side --force-conflicts -f -\n")
    assert not any(
        word in calls + done.stderr for word in ("secret ", "hf_", "second", base64.b64encode(b"hf_").decode())
    )
    made = yaml.safe_load(given)
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
    values = {name: base64.b64decode(value).decode() for name, value in made["data"].items()}
    assert values == {"HF_TOKEN": "hf_secret", "ODD": odd}


@pytest.mark.parametrize(
    ("names", "said"), [((), "neither HF_TOKEN nor"), (("MINE",), "MINE is not set"), (("a=b",), "'a=b' is no name")]
)
def test_what_is_no_variable_is_one_line(secret, names, said):
    done, calls, _ = secret(*names)
    assert (done.returncode, calls, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"launch/gke_secret.sh: {said}")


def test_the_hosts_make_up_the_slice():
    jobset = jobsets()["tpu"]
    topology = pod(jobset)["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = job(jobset)["spec"]["parallelism"] * container(jobset)["resources"]["limits"]["google.com/tpu"]
    assert math.prod(int(side) for side in topology.split("x")) == chips
