import ast
import functools
import importlib.util
import json
import os
import time
from contextlib import suppress

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from hsfm.report import contents
from hsfm.data.decode_size import decode_rule
from hsfm.core.device import accelerator_present
from hsfm.core.files import sha256, write_atomically
from hsfm.report.published import PUBLISHED

# OpenMP threads that spin while they wait for one another lose most of their speed on a busy machine. Set here, since
# the library reads it when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Arrow's own allocator sets memory aside in large pieces; with the system's a stage needs less, as measured in
# docs/explanation/performance.md.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

ROOT = Path(workflow.basedir)
PAGE = sorted(ROOT.glob("hsfm/report/templates/*"))  # what the report is made of beside its code


# What a script depends on ----------------------------------------------------------------------------------------------


def uses(script, without=()):
    """The script and every module of hsfm that it imports, directly or not.

    As inputs they make jobs run again when their code changes, since Snakemake compares small files by checksum.
    hsfm/__init__.py only names where things are and is left out, or one more public name would make all stale.
    without: modules that the script imports but does not use in a job.
    """
    found, waiting = [], [ROOT / script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        waiting += [other for other in imported(path) if path != ROOT / script or other not in without]
    return sorted(os.path.relpath(path) for path in found)


# The style of all figures: an input of every rule that draws.
STYLE = os.path.relpath(ROOT / "hsfm" / "report" / "hsfm.mplstyle")


def uses_of_source(script):
    """The same, but of the modules that read datasets only the one for a job's, or a change in one would have all of
    them read, and all trainings run, again."""

    def files(wildcards):
        own = source(SETTINGS["settings"][wildcards.dataset])
        return uses(script, without=[module(f"hsfm.datasets.{other}") for other in SOURCES if other != own])

    return files


@functools.cache  # scripts share most of their modules
def imported(path):
    """The modules of hsfm that a file imports."""
    return list(found_imports(path))


def found_imports(path):
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


# Dates: Snakemake looks at what a file holds only if it is dated later than what was made from it -------------------------


def date_changed_code():
    """Date code that has changed since the last call as of now; it may bring any date from an archive or another clock."""
    kept = Path(".snakemake", "code.json")
    before = {}
    if kept.exists():
        with suppress(ValueError):  # a damaged one is as good as none
            before = json.loads(kept.read_text())
    files = [
        *ROOT.glob("hsfm/**/*.py"),
        *ROOT.glob("workflow/scripts/*.py"),
        ROOT / "hsfm" / "report" / "hsfm.mplstyle",
        *PAGE,
        *ROOT.glob("workflow/report/*/*.rst"),
    ]
    found = {os.path.relpath(path): sha256(path) for path in files}
    for path, digest in found.items():
        if before.get(path, digest) != digest and os.access(path, os.W_OK):  # not in a read-only installation
            os.utime(path)
    if found != before:
        with write_atomically(kept) as temporary:
            temporary.write_text(json.dumps(found))


def date_future_results():
    """Date results that a clock, since put back, has dated in the future: what changes now would seem to be older."""
    now = time.time_ns()
    files = []
    for folder in ("results", "logs"):  # logs, since Snakemake counts a job's benchmark among its outputs
        for parent, folders, names in os.walk(folder):
            # what jobs that run at this moment write and remove again
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(parent, name) for name in names if not name.startswith(".")):
                with suppress(FileNotFoundError):
                    files.append((path, path.stat().st_mtime_ns))
    future = sorted({date for _, date in files if date > now + CLOCKS_DIFFER * 10**9})
    if not future:
        return
    rank = {date: number for number, date in enumerate(future, start=1)}
    late = [path for path, date in files if date in rank]
    last = max((date for _, date in files if date <= now), default=now - 10**9)
    for path, date in files:
        if date in rank:  # in their order, after all others
            with suppress(FileNotFoundError):
                os.utime(path, ns=(now, last + 1000 * rank[date]))
    logger.warning(
        f"{len(late)} results and logs are dated in the future, {late[0]} among them: the clock was put back. "
        "They are dated anew, in their order; nothing runs again for that."
    )


CLOCKS_DIFFER = 60  # seconds, on machines that share a disk
if workflow.is_main_process:
    date_changed_code()
    date_future_results()

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


def gpus_to_train(wildcards):
    """Those of an ERM training; Snakemake gives at most what --resources allows."""
    return config["training_gpus"] * gpus(wildcards)


def memory(base, **times):
    """Megabytes that a job asks for: `base`, and for the inputs of each name so many times their size.

    Doubled at the second attempt and so on, since a job that was killed for memory fails like any other. Inputs that
    are not there yet count nothing in a dry run; they are there when the job is handed out.
    """

    def mem_mb(wildcards, input, attempt):
        files = [(file, factor) for name, factor in times.items() for file in always_list(input.get(name, []))]
        size = sum(factor * Path(file).stat().st_size for file, factor in files if Path(file).exists())
        return attempt * (base + size // 10**6)

    return mem_mb


# Of the size of its file an image table takes in memory: 320 bytes an image, and 13 in the file; measured in
# docs/how-to/large-datasets.md.
IN_MEMORY = 30


def always_list(files):
    """A named input as a list: Snakemake gives a single file as a string."""
    return [files] if isinstance(files, str) else list(files)


# Optional parts -------------------------------------------------------------------------------------------------------

EXTRA = {  # modules of the extra [diffusion], by package
    "accelerate": "accelerate",
    "captum": "captum",
    "diffusers": "diffusers",
    "open-clip-torch": "open_clip",
    "opencv-python-headless": "cv2",
    "transformers": "transformers",
}
MISSING_EXTRA = [package for package, module in EXTRA.items() if importlib.util.find_spec(module) is None]
MISSING_FOR_DDB = [package for package in MISSING_EXTRA if package != "open-clip-torch"]
MISSING_FOR_UNCLIP = [package for package in MISSING_EXTRA if package not in ("captum", "opencv-python-headless")]
HOW_TO_INSTALL_EXTRA = f'pip install -e ".[diffusion]" (missing: {", ".join(MISSING_EXTRA)})'
if MISSING_FOR_DDB and "ddb" in config["methods"] and workflow.is_main_process:
    logger.warning(f"DDB is left out: {HOW_TO_INSTALL_EXTRA}")


def needs_extra(what, missing):
    """No input files, of a rule that runs only where the extra [diffusion] is installed."""

    def checked(wildcards):
        if missing:
            raise WorkflowError(f"{what} was asked for: {HOW_TO_INSTALL_EXTRA}")
        return []

    return checked


# Names -----------------------------------------------------------------------------------------------------------------

DATASETS = config["datasets"]
RUNS = config["runs"]
# DDB's row is left out where what it needs is not installed; asking for one of its files says so.
METHODS = [method for method in config["methods"] if method != "ddb" or not MISSING_FOR_DDB]
if not METHODS:
    raise WorkflowError(f"methods: ddb alone was asked for: {HOW_TO_INSTALL_EXTRA}")
STUDIES = config["studies"]
COMPUTE = in_order(config["compute"])
SETTINGS = {"settings": in_order(config["settings"])}
SPLITS = ["train", "val", "test"]


def table_files(*names):
    """Tables by name: numbers, and text for readers."""
    return expand("results/tables/{table}.{suffix}", table=names, suffix=["csv", "md", "tex", "html"])


TABLES_OF_STUDIES = table_files(*STUDIES)
REPORT = "results/report.html"
TABLES_OF_RUN = table_files("costs", "stages", "settings", "versions")


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",
    seed="[0-9]+",
    network="[a-z][a-z0-9_]*(/seed[0-9]+)?",
    shard="[0-9]+-of-[0-9]+",


def setting(section):
    """The settings of one stage for the dataset of a job."""

    # Snakemake's lookup walks through all settings of all datasets, which takes a second of the paper's plan
    def found(wildcards):
        return functools.reduce(dict.__getitem__, Path(section).parts, SETTINGS["settings"][wildcards.dataset])

    return found


def images_without(key):
    """A dataset's images settings but for one."""
    return lambda wildcards: {
        name: value for name, value in SETTINGS["settings"][wildcards.dataset]["images"].items() if name != key
    }


def settings_of(*sections):
    """Several sections of a dataset's settings as one dict."""
    return lambda wildcards: {key: SETTINGS["settings"][wildcards.dataset][key] for key in sorted(sections)}


# Shards -----------------------------------------------------------------------------------------------------------------


SHARDS = config["shards"]


def sharded(stage, path):
    """Where a job of a stage leaves a file: at its place or, cut into shards, in a folder of its own until they are
    gathered."""
    return path if SHARDS[stage] == 1 else temp(in_shard(path))


def in_shard(path):
    folder, name = os.path.split(path)
    return f"{folder}/shards/{{shard}}/{name}"


def of_shards(stage, path):
    """The files of all shards of a stage, in their order."""
    names = [f"{number}-of-{SHARDS[stage]}" for number in range(1, SHARDS[stage] + 1)]
    return expand(in_shard(path), shard=names, allow_missing=True)


def suffix(stage):
    """Of logs and benchmarks: the shard's, where there are several."""
    return "" if SHARDS[stage] == 1 else "_{shard}"


# Kinds of datasets -----------------------------------------------------------------------------------------------------


def kind(test):
    """The datasets whose settings pass a test."""
    return [name for name in DATASETS if test(SETTINGS["settings"][name])]


def one_of(names):
    """A wildcard constraint: these names, or none."""
    return "|".join(names) or "(?!)"


def source(settings):
    return settings["images"]["source"] if "images" in settings else None


SOURCES_IN_ARRAYS = ("minibirds", "dominoes")
SOURCES_IN_FILES = ("waterbirds", "celeba", "metashift", "metadata")
SOURCES = SOURCES_IN_ARRAYS + SOURCES_IN_FILES  # each has its module in hsfm/datasets
PACKED = kind(lambda s: source(s) in SOURCES_IN_ARRAYS)  # images in one array
IN_FILES = kind(lambda s: source(s) in SOURCES_IN_FILES)
GIVEN = kind(lambda s: source(s) is None)  # embeddings that the user has
TRAINED = kind(lambda s: source(s) and s["backbone"]["train"] and s["backbone"]["checkpoint"] is None)
TAKEN = [name for name in PACKED + IN_FILES if name not in TRAINED]
WITH_HEAD = kind(lambda s: source(s) and (s["backbone"]["train"] or s["backbone"]["checkpoint"] is not None))
WITHOUT_HEAD = [name for name in DATASETS if name not in WITH_HEAD]


CACHED = [name for name in IN_FILES if SETTINGS["settings"][name]["pixels"] == "cached"]
WITH_IMAGES = [name for name in DATASETS if name not in GIVEN]


DRIFTING = kind(lambda s: source(s) and "dac" in s and s["dac"]["batchnorm"] == "drift")


WITH_DDB = kind(lambda s: source(s) and s.get("ddb") is not None)
BY_CUT_PASTE = [name for name in WITH_DDB if SETTINGS["settings"][name]["ddb"]["generator"] == "cut_paste"]
BY_DIFFUSION = [name for name in WITH_DDB if name not in BY_CUT_PASTE]


WITH_EDITS = [name for name in DATASETS if "hsfm" in METHODS and SETTINGS["settings"][name].get("edits") is not None]
WITH_UNCLIP = [name for name in WITH_EDITS if SETTINGS["settings"][name].get("unclip") is not None]
if WITH_UNCLIP and MISSING_FOR_UNCLIP and workflow.is_main_process:
    logger.warning(f"Pictures by unCLIP are left out: {HOW_TO_INSTALL_EXTRA}")
TABLES_OF_EDITS = table_files("edits") if WITH_EDITS else []


def methods_of(dataset):
    """The methods of a dataset; null in place of a method's settings leaves it out."""
    settings = SETTINGS["settings"][dataset]
    return [method for method in METHODS if method == "erm" or settings[method] is not None]


# By dataset the source of its images, where the paper has numbers for it.
WITH_PUBLISHED = {
    name: source(SETTINGS["settings"][name]) for name in DATASETS if source(SETTINGS["settings"][name]) in PUBLISHED
}
TABLES = table_files("main", "metrics", "groups", "uncertainty", *(["published"] if WITH_PUBLISHED else []))

# What every head ends in, method by method.
RESULTS_OF_HEADS = {
    name: [
        f"results/{dataset}/run{run}/{method}/{name}.parquet"
        for method in METHODS
        for dataset in DATASETS
        if method in methods_of(dataset)
        for run in RUNS
    ]
    for name in ("scores", "predictions")
}


def used_settings(dataset):
    """A dataset's settings by method (empty: of all) and section, as far as they are used."""
    settings = SETTINGS["settings"][dataset]
    network = ["images", "pixels", "decode_size", "backbone", "transform"] if dataset in WITH_IMAGES else []
    own = ["embeddings", *(["augmentation", "erm"] if dataset in TRAINED else [])]
    own += ["erm_head"] if dataset in WITHOUT_HEAD else []
    sections = {"": network, "erm": own}
    sections |= {method: [method] for method in methods_of(dataset) if method != "erm"}
    for method, section in (("hsfm", "hard_set"), ("dac", "masks")):
        if method in sections:
            sections[method] = [*sections[method], section]
    return {
        method: {name: settings[name] for name in names if isinstance(settings.get(name), dict)}
        for method, names in sections.items()
    }


# What the tables of costs, settings and versions are about.
DESCRIPTION = {
    "methods": {dataset: methods_of(dataset) for dataset in DATASETS},
    "runs": RUNS,
    "seeds": sorted({*config["seeds"], *RUNS}),
    "settings": {dataset: used_settings(dataset) for dataset in DATASETS},
}

# All that results are made with: of datasets that were not chosen there is nothing to say.
SAVED_CONFIG = {
    **{key: config[key] for key in ("datasets", "runs", "seeds", "methods", "studies")},
    **in_order({key: value for key, value in config.items() if key != "settings"}),
    "settings": {name: SETTINGS["settings"][name] for name in DATASETS},
}


def masks_for(choose, run=None):
    """The masks of training images from the source, heat_map or dataset, that a dataset's settings choose."""

    def path(wildcards):
        of_run = f"results/{wildcards.dataset}/run{wildcards.run if run is None else run}"
        return f"{of_run}/erm/masks/{choose(SETTINGS['settings'][wildcards.dataset])}/train.parquet"

    return path


def masks_of_dac(settings):
    return settings["masks"]["source"]


def embedding_settings(wildcards):
    """How a network's features are made; a shard leaves their spread to those that gather."""
    settings = dict(SETTINGS["settings"][wildcards.dataset]["embeddings"])
    if wildcards.network.startswith("ddb/"):
        settings["standardise"] = None  # they are of the network's own head
    if hasattr(wildcards, "shard"):
        del settings["standardise"]
    return settings


def erm_settings(wildcards):
    """How ERM trains, which holds nothing out; that is for AFR's network."""
    settings = SETTINGS["settings"][wildcards.dataset]["erm"]
    return {key: value for key, value in settings.items() if key != "holdout"}


def standardised(wildcards):
    """Whether a dataset's features are brought to one spread."""
    return SETTINGS["settings"][wildcards.dataset]["embeddings"].get("standardise") is not None


def own_features(wildcards):
    """Folders of the networks whose features a method's heads are for, one or one per seed; none where it is ERM's."""
    folder = f"results/{wildcards.dataset}/run{wildcards.run}/{wildcards.method}"
    if wildcards.method == "afr":
        return [folder]
    if wildcards.method == "ddb" or (wildcards.method == "dac" and wildcards.dataset in DRIFTING):
        seeds = [wildcards.seed] if hasattr(wildcards, "seed") else config["seeds"]
        return [f"{folder}/seed{seed}" for seed in seeds]
    return []


def heads_to_score(wildcards):
    """Files of heads, each with embeddings of its own in `features_to_score`."""
    folders = own_features(wildcards) or [f"results/{wildcards.dataset}/run{wildcards.run}/{wildcards.method}"]
    return [f"{folder}/heads.safetensors" for folder in folders]


def features_to_score(wildcards):
    """Embeddings of all splits, for one file of heads after the other."""
    folders = own_features(wildcards) or [f"results/{wildcards.dataset}/run{wildcards.run}/erm"]
    return [f"{folder}/embeddings/{split}.parquet" for folder in folders for split in SPLITS]


def network_of(file):
    """A file of the network whose features a method's heads are for."""

    def path(wildcards):
        return f"{[*own_features(wildcards), f'results/{wildcards.dataset}/run{wildcards.run}/erm'][0]}/{file}"

    return path


def ddb_settings(*sections):
    """Sections of a dataset's settings of DDB as one dict."""
    return lambda wildcards: {key: SETTINGS["settings"][wildcards.dataset]["ddb"][key] for key in sorted(sections)}


def models(*names):
    """Which models a stage loads and how, with what tells the files of a local folder from others."""

    def chosen(wildcards):
        settings = SETTINGS["settings"][wildcards.dataset]["ddb"]["models"]
        how = {key: value for key, value in settings.items() if not isinstance(value, dict)}
        stamps = {name: folder_stamp(settings[name]["name"]) for name in names}
        return in_order({**how, **{name: settings[name] for name in names}, "stamps": stamps})

    return chosen


def folder_stamp(name):
    """Names, sizes and times of a local folder's files; nothing of a model on the hub."""
    files = sorted(path for path in Path(name).rglob("*") if path.is_file()) if Path(name).is_dir() else []
    return [f"{path.relative_to(name)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]


def clip_stamp(wildcards):
    """The files of a CLIP model in a folder, as `folder_stamp`; nothing of another backbone."""
    name = SETTINGS["settings"][wildcards.dataset]["backbone"]["name"]
    return {"clip": folder_stamp(name.removeprefix("open_clip:"))} if name.startswith("open_clip:") else {}


def tokens(wildcards):
    """The learnt token of every class; there are as many as weights of the classes' losses."""
    classes = len(SETTINGS["settings"][wildcards.dataset]["ddb"]["retrain"]["weights"])
    return [f"results/{wildcards.dataset}/tokens/class{label}.safetensors" for label in range(classes)]


def packed(wildcards):
    """The array of a dataset's images, where there is one."""
    return [f"results/{wildcards.dataset}/pixels.npy"] if wildcards.dataset in PACKED else []


def decoded(wildcards):
    """The cache of a dataset's decoded images, where there is one."""
    folder = f"results/{wildcards.dataset}"
    return [f"{folder}/decoded.npy", f"{folder}/decoded.parquet"] if wildcards.dataset in CACHED else []


def decode_size(wildcards):
    """How large the images of that cache are, as hsfm.data.decode_size has it."""
    if wildcards.dataset not in CACHED:
        return {}
    settings = SETTINGS["settings"][wildcards.dataset]
    # what DDB retrains is augmented, too
    retrained = wildcards.dataset in WITH_DDB and "ddb" in METHODS
    augmentation = settings["augmentation"] if wildcards.dataset in TRAINED or retrained else None
    return in_order(decode_rule(settings["decode_size"], settings["transform"], augmentation))


def files_in(section, *keys):
    """Those of some settings that name a file."""

    def files(wildcards):
        settings = SETTINGS["settings"][wildcards.dataset].get(section, {})
        values = [settings.get(key) for key in keys]
        return [value for value in values if value is not None and not value.startswith("package:")]

    return files


def stamps_of(section, *keys):
    """What tells those files from others under their names, for params: Snakemake goes by the modification time, which
    a file that is moved or copied over another may bring from before."""
    return lambda wildcards: {file: stamp(file) for file in files_in(section, *keys)(wildcards)}


def stamp(file):
    """SHA-256 of a small file, size and modification time of a large one."""
    path = Path(file)
    if not path.exists():
        return None
    if path.stat().st_size <= 2**24:
        return sha256(path)
    return f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"


# Data on disk ----------------------------------------------------------------------------------------------------------

# What can be downloaded, and where else a loader finds the same.
FILES_OF_SOURCES = {
    "waterbirds": ["metadata.csv"],
    "dominoes": [
        *(f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
        *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        "cifar-10-batches-py/test_batch",
    ],
}
TABLES_OF_SOURCES = {  # labels that a user puts there
    "celeba": [
        "list_attr_celeba.txt",
        "list_eval_partition.txt",
        "list_attr_celeba.csv",
        "list_eval_partition.csv",
        "metadata.csv",
    ],
}
ELSEWHERE = {
    "waterbirds": ["waterbird_complete95_forest2water2/metadata.csv"],
    "dominoes": [f"{array}_{split}.npy" for array in ("X", "y", "env") for split in SPLITS],
}


def raw_files(dataset):
    """The files that a dataset is made of, as far as a rule makes them or its table says so; the same before and after
    a download, or that would make the dataset stale."""
    settings = SETTINGS["settings"][dataset]["images"]
    if settings["source"] == "metadata":
        return [settings["metadata"]]
    folder = Path(settings["folder"]) if "folder" in settings else None
    if any((folder / file).exists() for file in ELSEWHERE.get(settings["source"], [])):
        return []
    tables = [folder / file for file in TABLES_OF_SOURCES.get(settings["source"], [])]
    return [os.path.normpath(folder / file) for file in FILES_OF_SOURCES.get(settings["source"], [])] + [
        str(table) for table in tables if table.exists()
    ]


def raw_data(wildcards):
    return raw_files(wildcards.dataset)


# By folder, which several datasets may share: its source, and what is missing of it.
MISSING_DATA = {
    os.path.normpath(SETTINGS["settings"][name]["images"]["folder"]): (
        SETTINGS["settings"][name]["images"]["source"],
        [os.path.normpath(file) for file in raw_files(name) if not Path(file).exists()],
    )
    for name in WITH_IMAGES
    if source(SETTINGS["settings"][name]) in FILES_OF_SOURCES
}


# Figures ---------------------------------------------------------------------------------------------------------------


def figures_of(dataset):
    """The names of a dataset's figures."""
    figures = ["groups", "tradeoff", "time"]
    if dataset not in GIVEN:
        figures.append("examples")
    if dataset in TRAINED or {"afr", "dac", "ddb", "hsfm"} & set(methods_of(dataset)):
        figures.append("training")
    if "hsfm" in METHODS:
        figures += ["hard_set", "method"]
    if "dac" in METHODS:
        figures.append("masks")
    if "ddb" in methods_of(dataset):
        figures.append("generated")
    if dataset in WITH_EDITS:
        figures += ["edits", "edit_cosines"] + (["edit_neighbours"] if dataset not in GIVEN else [])
    if dataset in WITH_UNCLIP and not MISSING_FOR_UNCLIP:
        figures.append("unclip")
    return figures + [study for study in STUDIES if study != "ablations"]


def scores_of_methods(wildcards):
    """The scores of ERM and all methods, run by run."""
    methods = dict.fromkeys(["erm", *methods_of(wildcards.dataset)])
    return [f"results/{wildcards.dataset}/run{run}/{method}/scores.parquet" for run in RUNS for method in methods]


def inputs_of_figure(wildcards):
    """What one figure of a dataset is drawn from, by name."""
    folder = f"results/{wildcards.dataset}"
    of_erm = expand(f"{folder}/run{{run}}/erm/scores.parquet", run=RUNS)
    erm = expand(f"{folder}/run{{run}}/erm/history.parquet", run=RUNS if wildcards.dataset in TRAINED else [])
    hsfm = expand(f"{folder}/run{{run}}/hsfm/history.parquet", run=RUNS if "hsfm" in METHODS else [])
    with_afr = "afr" in methods_of(wildcards.dataset)
    afr = expand(f"{folder}/run{{run}}/afr/history.parquet", run=RUNS if with_afr else [])
    seeds = {
        method: expand(f"{folder}/run{{run}}/{method}/seed{{seed}}/history.parquet", run=RUNS, seed=config["seeds"])
        for method in ("dac", "ddb")
        if method in methods_of(wildcards.dataset)
    }
    return {
        "examples": {"images": f"{folder}/images.parquet", "pixels": packed(wildcards)},
        "training": {"scores": of_erm, "erm": erm, "afr": afr, **seeds, "hsfm": hsfm},
        "groups": {"scores": scores_of_methods(wildcards)},
        "hard_set": {
            "scores": of_erm,
            "hsfm": hsfm,
            "hard_groups": expand(f"{folder}/run{{run}}/hsfm/hard_groups.parquet", run=RUNS),
        },
    }[wildcards.figure]


def inputs_of_method(wildcards):
    """What HSFM's method is drawn from: the first run, and images where there are some."""
    dataset = f"results/{wildcards.dataset}"
    erm, hsfm = (f"{dataset}/run{RUNS[0]}/{method}" for method in ("erm", "hsfm"))
    images = {} if wildcards.dataset in GIVEN else {"images": f"{dataset}/images.parquet", "pixels": packed(wildcards)}
    return {
        **{name: f"{hsfm}/{name}.parquet" for name in ("support", "history", "hard_groups")},
        "heads": f"{hsfm}/heads.safetensors",
        "erm": f"{erm}/heads.safetensors",
        "hard_set": f"{erm}/hard_set.parquet",
        **{split: f"{erm}/embeddings/{split}.parquet" for split in ("train", "val")},
        **images,
    }


FIGURES = [
    f"results/figures/{dataset}/{figure}.{suffix}"
    for dataset in DATASETS
    for figure in figures_of(dataset)
    for suffix in ("png", "pdf")
]


def figure_files(figure):
    """A figure of a dataset: a picture for the screen, a drawing for print."""
    return expand("results/figures/{{dataset}}/{figure}.{suffix}", figure=figure, suffix=["png", "pdf"])


def sweep_parts(wildcards):
    """The files that hold a dataset's sweep, part by part."""
    parts = SETTINGS["settings"][wildcards.dataset]["sweep"]["parts"]
    return expand(
        "results/{dataset}/run{run}/studies/sweep_part{part}.parquet",
        dataset=wildcards.dataset,
        run=wildcards.run,
        part=range(parts),
    )


# Reports ---------------------------------------------------------------------------------------------------------------


def caption(file):
    """The caption of a table or a figure."""
    kind, *_, name = Path(file).with_suffix("").parts[1:]
    return ROOT / "workflow" / "report" / kind / f"{name}.rst"


def captions(files):
    return [os.path.relpath(caption(file)) for file in files]


def reported(files):
    """Outputs of a rule, a list or a dict, whose HTML tables and PNG figures `snakemake --report` shows."""
    if isinstance(files, dict):
        return {name: reported_file(file) for name, file in files.items()}
    return [reported_file(file) for file in files]


def reported_file(file):
    kind, *dataset, name = Path(file).with_suffix("").parts[1:]
    if Path(file).suffix != {"tables": ".html", "figures": ".png"}[kind]:
        return file
    topic, title = {
        "tables": (contents.table_topic, contents.table_title),
        "figures": (contents.figure_topic, contents.figure_title),
    }[kind]

    def labels(wildcards):
        of = {"dataset": wildcards.dataset} if dataset else {}
        return {"result": f"{title(name.format(**dict(wildcards.items())))} ({kind.removesuffix('s')})", **of}

    return report(
        file,
        caption=str(caption(file)) if "{" not in name else str(caption_by_wildcard(kind, name)),
        category=lambda wildcards: topic(name.format(**dict(wildcards.items()))),
        subcategory="{dataset}" if dataset else "all datasets",
        labels=labels,
    )


def caption_by_wildcard(kind, name):
    """A template for Snakemake, which takes one caption for all files of an output: the caption of each by its name."""
    template = Path(".snakemake", "captions", kind, f"{name.strip('{}')}.rst").absolute()
    parts = [
        f'{{% if snakemake.wildcards.{name.strip("{}")} == "{path.stem}" %}}\n{{% raw %}}\n{path.read_text()}{{% endraw %}}\n{{% endif %}}\n'
        for path in sorted(ROOT.glob(f"workflow/report/{kind}/*.rst"))
    ]
    if workflow.is_main_process and not (template.exists() and template.read_text() == "".join(parts)):
        with write_atomically(template) as temporary:
            temporary.write_text("".join(parts))
    return template
