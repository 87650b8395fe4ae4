import ast
import os


from hsfm.device import accelerator_present

# OpenMP threads that spin while they wait for one another lose most of their speed on a busy machine. Set here, since
# the library reads it when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(workflow.basedir)


# What a script depends on ----------------------------------------------------------------------------------------------


def uses(script):
    """The script and every module of hsfm that it imports, directly or not.

    As inputs they make jobs run again when their code changes, since Snakemake compares small files by checksum.
    hsfm/__init__.py only names where things are and is left out, or one more public name would make all stale.
    """
    found, waiting = [], [ROOT / script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in imported(path):
            candidate = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if candidate.exists():
                waiting.append(candidate)
    return sorted(os.path.relpath(path) for path in found)


def imported(path):
    """Dotted names under hsfm that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name and name.startswith("hsfm."))


# Resources -------------------------------------------------------------------------------------------------------------


def gpus(wildcards):
    """One GPU, unless jobs run on this machine and it is not to be used or has none.

    Without that exception such rules would run one at a time for nothing. A login node without a GPU still asks for
    one, since its jobs run elsewhere.
    """
    if config["device"] == "cpu":
        return 0
    if config["device"] == "auto" and workflow.local_exec and not accelerator_present():
        return 0
    return 1


# Names -----------------------------------------------------------------------------------------------------------------

DATASETS = config["datasets"]
RUNS = config["runs"]
METHODS = config["methods"]
SETTINGS = {"settings": in_order(config["settings"])}
SPLITS = ["train", "val", "test"]
TABLES = expand("results/tables/{table}.{suffix}", table=["main", "metrics", "groups"], suffix=["csv", "md", "tex"])
FIGURES = ["examples", "training", "groups"] + (["hard_set"] if "hsfm" in METHODS else [])


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",


def setting(section):
    """The settings of one stage for the dataset of a job."""
    return lookup(dpath=f"settings/{{dataset}}/{section}", within=SETTINGS)
