import ast
import os

from snakemake.exceptions import WorkflowError

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
        waiting += imported(path)
    return sorted(os.path.relpath(path) for path in found)


def imported(path):
    """The modules of hsfm that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (module(alias.name) for alias in node.names if alias.name.startswith("hsfm."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hsfm":
            if module(node.module).exists():
                yield module(node.module)
                continue
            for alias in node.names:  # modules of a package
                found = module(f"{node.module}.{alias.name}")
                if found.exists():
                    yield found
                elif alias.name != "__version__":
                    raise WorkflowError(f"{path}: import {alias.name} from its module, so that jobs depend on that")


def module(name):
    return ROOT.joinpath(*name.split(".")).with_suffix(".py")


# Resources -------------------------------------------------------------------------------------------------------------


def gpus(wildcards):
    """One GPU, unless jobs run on this machine and it is not to be used or has none.

    Without that exception such rules would run one at a time for nothing. A login node without a GPU still asks for
    one, since its jobs run elsewhere.
    """
    if config["device"] == "cpu":
        return 0
    if workflow.local_exec and not accelerator_present():
        if config["device"] != "auto":
            raise WorkflowError(f"device: {config['device']!r} was asked for, but this machine has no CUDA device")
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
STUDIES = config["studies"]
TABLES_OF_STUDIES = expand("results/tables/{study}.{suffix}", study=STUDIES, suffix=["csv", "md", "tex"])
FIGURES_OF_STUDIES = [study for study in STUDIES if study != "ablations"]


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",


def setting(section):
    """The settings of one stage for the dataset of a job."""
    return lookup(dpath=f"settings/{{dataset}}/{section}", within=SETTINGS)


def settings_of(*sections):
    """Several sections of a dataset's settings as one dict."""
    return lambda wildcards: {key: SETTINGS["settings"][wildcards.dataset][key] for key in sorted(sections)}


def sweep_parts(wildcards):
    """The files that hold a dataset's sweep, part by part."""
    parts = SETTINGS["settings"][wildcards.dataset]["sweep"]["parts"]
    return expand(
        "results/{dataset}/run{run}/studies/sweep_part{part}.parquet",
        dataset=wildcards.dataset,
        run=wildcards.run,
        part=range(parts),
    )
