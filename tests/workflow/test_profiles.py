"""Profiles of machines and clusters: each plans the workflow, bears the default one beside it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.repository import MINIMAL, ROOT, RUN, copy_repository, environment, results, snakemake

PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/config.yaml"))
BACKBONE = f"{RUN}/erm/backbone.safetensors"


def with_profile(folder: Path, profile: str, *arguments: str, path: str = "") -> str:
    """Run Snakemake as the profile has it, `path` before all else on the search path for commands."""
    variables = environment(folder) | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=folder, env=variables, timeout=300, check=False, **output)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_a_dry_run_of_every_profile_plans_the_whole_workflow(tmp_path, profile):
    folder = copy_repository(tmp_path / "hsfm")
    arguments = ["--cores", "2"] if profile == "default" else []
    if profile == "kubernetes":  # a volume of the cluster's
        arguments = ["--default-storage-prefix", str(folder)]
    out = with_profile(folder, profile, *MINIMAL, "--dry-run", *arguments)
    assert re.search(r"^total +25$", out, re.MULTILINE), out
    assert "This was a dry-run" in out


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "default"])
def test_the_default_profile_holds_beside_the_others(profile):
    """Snakemake reads it as well and prefers it: what another sets too would be lost."""
    default, other = (
        yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text()) for name in ("default", profile)
    )
    assert not default.keys() & other.keys()
    # or its limit of one GPU would be the whole cluster's
    assert other["set-resource-scopes"]["gpu"] == "local"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy in which a network was trained on this machine."""
    folder = copy_repository(tmp_path_factory.mktemp("trained") / "hsfm")
    snakemake(folder, *MINIMAL, "--", BACKBONE)
    return folder


def test_a_touched_module_reruns_nothing_on_a_cluster_either(trained):
    """`rerun-triggers` of the default profile, under another one."""
    (trained / "workflow/scripts/train_erm.py").touch()
    assert "Nothing to be done" in with_profile(trained, "slurm", *MINIMAL, "--dry-run", "--", BACKBONE)


def test_every_rule_states_memory_time_threads_and_one_environment():
    """Those of `stage`, or its own in their place."""
    texts = {path.name: path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")}
    assert "    threads: 1\n    resources:\n" in texts["stage.smk"]
    for name, text in texts.items():
        for stated in re.findall(r"^ *resources:\n((?:        .*\n)+)", text, re.M):
            assert "mem_mb=memory(" in stated, stated
            assert re.search(r"runtime=\d", stated), stated
        assert set(re.findall(r"^ *conda:\n +(.*)", text, re.M)) <= {'"../../environment.yml"'}, name
        # a rule's own retries are repeated inside a Slurm job, with the memory of the first
        assert "retries:" not in text, name


# stands in for qsub: runs the job's script, its last argument; the first training is one that the scheduler kills
QSUB = """#!/bin/sh
echo "$@" >> LOG
for script; do :; done
case "$*" in
  *"-N train_erm "*:mem=8000mb:*) echo 271 > LOG.$$ ;;
  *) (sh "$script" > LOG.$$.out 2>&1; echo $? > LOG.$$) > /dev/null 2>&1 & ;;
esac
echo $$
"""
# stands in for qstat -x -f NUMBER
QSTAT = """#!/bin/sh
[ -e LOG.$3 ] || { echo "    job_state = R"; exit; }
printf '    job_state = F\\n    Exit_status = %s\\n' "$(cat LOG.$3)"
"""


def command(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_the_generic_profile_submits_what_rules_state_and_more_memory_after_a_kill(trained, tmp_path):
    log = tmp_path / "qsub.log"
    command(tmp_path / "bin/qsub", QSUB.replace("LOG", str(log)))
    command(tmp_path / "bin/qstat", QSTAT.replace("LOG", str(log)))
    folder = copy_repository(tmp_path / "hsfm")
    quick = ["--seconds-between-status-checks", "1", "--latency-wait", "5"]
    out = with_profile(folder, "cluster-generic", *MINIMAL, *quick, "--", BACKBONE, path=str(tmp_path / "bin"))
    assert "Trying to restart job" in out
    calls = [re.sub(r"\S+snakejob\.\w+\.\d+\.sh$", "SCRIPT", line) for line in log.read_text().splitlines()]
    where = "-j oe -o logs/cluster/ SCRIPT"
    assert calls == [
        f"-V -N pack_images -q workq -l select=1:ncpus=2:mem=4000mb:ngpus=0 -l walltime=14400 {where}",
        f"-V -N train_erm -q workq -l select=1:ncpus=1:mem=8000mb:ngpus=1 -l walltime=86400 {where}",
        f"-V -N train_erm -q workq -l select=1:ncpus=1:mem=16000mb:ngpus=1 -l walltime=86400 {where}",
    ]
    assert results(folder) == results(trained)


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("    job_state = R", 0, "running"),
        ("    job_state = F\n    Exit_status = 0", 0, "success"),
        ("    job_state = F\n    Exit_status = 271", 0, "failed"),
        ("qstat: Unknown Job Id", 153, "failed"),
        ("qstat: cannot connect to server", 111, "running"),
    ],
)
def test_the_state_of_a_pbs_job(tmp_path, answer, code, said):
    command(tmp_path / "bin/qstat", f"#!/bin/sh\nprintf '%s\\n' '{answer}'\nexit {code}\n")
    status = ROOT / "profiles/cluster-generic/status.sh"
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    done = subprocess.run([str(status), "7"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


# stands in for apptainer: runs what it is to run in the image beside it
APPTAINER = """#!/bin/sh
echo "$@" >> LOG
[ "$1" = exec ] || { echo "apptainer version 1.3.4"; exit; }
while [ "$1" != bash ]; do shift; done
exec "$@"
"""


def test_jobs_run_in_the_container_that_the_configuration_names(trained, tmp_path):
    log = tmp_path / "apptainer.log"
    command(tmp_path / "bin/apptainer", APPTAINER.replace("LOG", str(log)))
    folder = tmp_path / "hsfm"
    shutil.copytree(trained, folder)
    (folder / "hsfm.sif").touch()
    image = [*MINIMAL, "--cores", "2", "--config", "container=hsfm.sif"]
    target = "results/minibirds/images.parquet"
    # naming it changes nothing; running in it is other software, which makes what is there stale
    assert "Nothing to be done" in with_profile(folder, "default", *image, "--dry-run", "--", target)
    sdm = ["--software-deployment-method", "apptainer"]
    out = with_profile(folder, "default", *image, *sdm, "--", target, path=str(tmp_path / "bin"))
    assert "Software environment definition has changed since last execution" in out
    (call,) = [line for line in log.read_text().splitlines() if line.startswith("exec")]
    assert re.search(r" hsfm\.sif bash -c .*pack_images\.py$", call)
    assert results(folder) == results(trained)
