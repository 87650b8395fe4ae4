"""The plan of a configuration: datasets by kind, methods, studies, and the files, inputs and params of their rules.

Functions of wildcards are given to Snakemake as they are, as inputs or params. Params hold plain values with sorted
keys, since Snakemake compares them as text.
"""

import functools
import os
from collections.abc import Callable, Iterable

from snakemake.io import expand, temp

from hsfm.data.decode_size import decode_rule
from hsfm.heads import known_methods as methods
from hsfm.report.published import PUBLISHED
from hsfm_workflow import SOURCES_IN_ARRAYS, SPLITS, extras
from hsfm_workflow.checks import is_trained
from hsfm_workflow.code import code_of
from hsfm_workflow.config import in_order
from hsfm_workflow.files import as_inputs, folder_stamp, raw_files, stamp

OF_RUN = "results/{dataset}/run{run}"
IMAGES = "results/{dataset}/images.parquet"


class Plan:
    """One checked configuration as `read_config` returns it; wildcards have the names that the rules give them."""

    def __init__(self, config: dict):
        self.config = config
        self.settings = in_order(config["settings"])
        self.datasets: list[str] = config["datasets"]
        self.runs: list[int] = config["runs"]
        self.seeds: list[int] = config["seeds"]
        self.studies: list[str] = config["studies"]
        self.shards: dict[str, int] = config["shards"]
        self.compute = in_order(config["compute"])
        # Rows of the tables. DDB's is left out where what it needs is not installed; asking for its files says so.
        self.methods: list[str] = [m for m in config["methods"] if m != "ddb" or not extras.MISSING]
        self._sort_datasets()
        self.images = {"images": IMAGES, "pixels": self.pixels, "cache": self.store}  # inputs of rules that read images
        self.edits = expand(f"{OF_RUN}/hsfm/edits.parquet", dataset=self.with_edits, run=self.runs)

    def _sort_datasets(self) -> None:
        images = self.with_images = self.where(lambda s: "images" in s)
        self.given = [name for name in self.datasets if name not in images]  # as embeddings that the user has
        self.packed = [name for name in images if self.source(name) in SOURCES_IN_ARRAYS]  # images in one array
        self.in_files = [name for name in images if name not in self.packed]
        self.cached = [name for name in self.in_files if self.settings[name]["pixels"] == "cached"]  # decoded once
        self.trained = self.where(is_trained)
        self.with_head = [*self.trained, *self.where(lambda s: "images" in s and s["backbone"]["checkpoint"])]
        self.without_head = [name for name in self.datasets if name not in self.with_head]
        # where DaC's BatchNorm drifts, so that each seed has a network of its own
        self.drifting = self.where(lambda s: "images" in s and s.get("dac") and s["dac"]["batchnorm"] == "drift")
        self.with_ddb = self.where(lambda s: "images" in s and s.get("ddb"))
        self.with_edits = self.where(lambda s: s.get("edits") and s["hsfm"]) if "hsfm" in self.methods else []
        self.with_unclip = [name for name in self.with_edits if self.settings[name].get("unclip")]
        # by dataset the source of its images, where the paper has numbers for it
        self.published = {name: self.source(name) for name in self.datasets if self.source(name) in PUBLISHED}

    def where(self, test: Callable[[dict], object]) -> list[str]:
        """The datasets whose settings pass a test."""
        return [name for name in self.datasets if test(self.settings[name])]

    def source(self, dataset: str) -> str | None:
        """Where a dataset's images come from; None for given embeddings."""
        return self.settings[dataset].get("images", {}).get("source")

    def with_ddb_by(self, generator: str) -> list[str]:
        return [name for name in self.with_ddb if self.settings[name]["ddb"]["generator"] == generator]

    # Methods

    def methods_of(self, dataset: str) -> list[str]:
        """The methods of a dataset; null in place of a method's settings leaves it out."""
        settings = self.settings[dataset]
        return [method for method in self.methods if method == "erm" or settings[method] is not None]

    @functools.cached_property
    def fitted(self) -> list[str]:
        """Rows, and methods that have no row, whose heads are fitted on embeddings alone, by one rule each."""
        rows = {**{name: name for name in methods.found()}, **self.config["variants"]}
        return [row for row, name in rows.items() if not methods.found()[name].images]

    def with_history(self, dataset: str) -> list[str]:
        """The rows of a dataset that leave a history of their training."""
        return [row for row in self.methods_of(dataset) if row != "erm" and "history" in self.method(row).tables]

    def finders(self, dataset: str) -> list[str]:
        """The rows of a dataset that leave the groups that they inferred."""
        return [row for row in self.methods_of(dataset) if row != "erm" and "groups_found" in self.method(row).tables]

    def inputs_of_fit(self, row: str) -> Callable:
        """Files that the fit of a row reads, by name."""

        def files(wildcards: object) -> dict[str, str]:
            run, own = f"results/{wildcards.dataset}/run{wildcards.run}", self.features(row, wildcards.dataset) == "own"
            network = f"{run}/{self.method(row).name if own else 'erm'}"
            head = {"checkpoint": "backbone"} if own else {"heads": "heads"}
            return {
                **{split: f"{network}/embeddings/{split}.parquet" for split in ("train", "val")},
                **{name: f"{network}/{file}.safetensors" for name, file in head.items()},
                **{need: f"{run}/erm/{need}.parquet" for need in self.method(row).needs},
            }

        return files

    @property
    def selected(self) -> list[str]:
        """Rows that the study of selection fits: those on embeddings."""
        return [row for row in self.fitted if row in self.config["variants"]]

    def inputs_of_selection(self, wildcards: object) -> dict[str, str]:
        """As `inputs_of_fit`, with the test split."""
        files = self.inputs_of_fit(wildcards.method)(wildcards)
        return {**files, "test": f"{os.path.dirname(files['val'])}/test.parquet"}

    def of_method(self, of: Callable[[methods.Method], object]) -> Callable:
        """A fact of the method that a job's row is of."""
        return lambda wildcards: of(self.method(wildcards.method))

    def needs(self, wildcards: object) -> dict:
        """Settings that the further inputs of a row's fit are made with, by name."""
        return {need: self.settings[wildcards.dataset][need] for need in self.method(wildcards.method).needs}

    def features(self, row: str, dataset: str) -> str:
        """Whose features a row's heads are for: erm, own, own_per_seed."""
        return self.method(row).features_under(self.settings[dataset][row])

    def method(self, row: str) -> methods.Method:
        """The method that a row is of."""
        return methods.found()[self.config["variants"].get(row, row)]

    # Params by wildcards

    def section(self, path: str, without: tuple[str, ...] = (), unless_null: tuple[str, ...] = ()) -> Callable:
        """Settings of the job's dataset at `path`, all but some keys of them, and but others where they are null."""
        keys = path.split("/")

        # Snakemake's lookup walks through all settings of all datasets, which takes a second of the paper's plan
        def found(wildcards: object) -> object:
            value = functools.reduce(dict.__getitem__, keys, self.settings[wildcards.dataset])
            if not (without or unless_null):
                return value
            left = {*without, *(key for key in unless_null if value[key] is None)}
            return {key: value[key] for key in value if key not in left}

        return found

    def sections(self, *names: str, of: str | None = None) -> Callable:
        """Several sections of the settings of the job's dataset, or of its section `of`, as one dict."""

        def found(wildcards: object) -> dict:
            settings = self.settings[wildcards.dataset]
            return {name: (settings if of is None else settings[of])[name] for name in sorted(names)}

        return found

    def training_on_share(self, wildcards: object) -> dict:
        """Settings of the training of AFR's own network: ERM's, but for `erm/on_share`, which stays among them."""
        training = self.section("erm", without=("early_epoch",), unless_null=("on_share",))(wildcards)
        changes = training.get("on_share", {})
        return {**training, **{name: value for name, value in changes.items() if value is not None}}

    def embedding_settings(self, wildcards: object) -> dict:
        """Settings of a network's features; a shard leaves their spread to the job that gathers."""
        settings = dict(self.settings[wildcards.dataset]["embeddings"])
        if wildcards.network.startswith("ddb/"):
            settings["standardize"] = None  # they are of the network's own head
        if hasattr(wildcards, "scatteritem"):
            del settings["standardize"]
        return settings

    def decode_size(self, wildcards: object) -> dict:
        """Rule for the size of stored images, as hsfm.data.decode_size has it."""
        if wildcards.dataset not in self.cached:
            return {}
        settings = self.settings[wildcards.dataset]
        # what DDB retrains is augmented, too
        augmented = wildcards.dataset in self.trained or (wildcards.dataset in self.with_ddb and "ddb" in self.methods)
        augmentation = settings["augmentation"] if augmented else None
        return in_order(decode_rule(settings["decode_size"], settings["transform"], augmentation))

    def models(self, *names: str) -> Callable:
        """Which models a stage of DDB loads and how, with what tells the files of a local folder from others."""

        def chosen(wildcards: object) -> dict:
            settings = self.settings[wildcards.dataset]["ddb"]["models"]
            how = {key: value for key, value in settings.items() if not isinstance(value, dict)}
            stamps = {name: folder_stamp(settings[name]["name"]) for name in names}
            return in_order({**how, **{name: settings[name] for name in names}, "stamps": stamps})

        return chosen

    def clip_stamp(self, wildcards: object) -> dict:
        """The files of a CLIP model in a folder, as `folder_stamp`; nothing of another backbone."""
        name = self.settings[wildcards.dataset]["backbone"]["name"]
        return {"clip": folder_stamp(name.removeprefix("open_clip:"))} if name.startswith("open_clip:") else {}

    def files_in(self, section: str, *keys: str) -> Callable:
        """Those of some settings that name a file, but for names that cannot be an input."""
        return lambda wildcards: as_inputs(self._files_in(wildcards, section, *keys))

    def _files_in(self, wildcards: object, section: str, *keys: str) -> list[str]:
        settings = self.settings[wildcards.dataset].get(section, {})
        return [own for own in map(settings.get, keys) if own is not None and not own.startswith("package:")]

    def stamps_of(self, section: str, *keys: str) -> Callable:
        """Stamps that tell those files from others of these names: one that is moved may be of an older date."""
        return lambda wildcards: {file: stamp(file) for file in self._files_in(wildcards, section, *keys)}

    def stamps_of_images(self, wildcards: object) -> dict:
        """As `stamps_of`, of the table that the user names, and of what cannot be an input."""
        images = self.settings[wildcards.dataset]["images"]
        files = raw_files(images)
        return {file: stamp(file) for file in files if file == images.get("metadata") or file not in as_inputs(files)}

    def code_of_source(self, script: str) -> dict:
        """As `code_of`, but of the one module that reads the job's dataset: others may change."""

        def code(wildcards: object) -> str:
            return code_of(script, f"hsfm/data/sources/{self.source(wildcards.dataset)}.py")["code"]

        return {"script": script, "code": code}

    def code_of_row(self, script: str) -> dict:
        """As `code_of`, with the code of the method of the job's row."""

        def code(method: methods.Method) -> str:
            return code_of(script, method.path, *(f"hsfm/heads/{need}.py" for need in method.needs))["code"]

        return {"script": script, "code": self.of_method(code)}

    @property
    def asked_of_labels(self) -> dict[str, dict]:
        """By dataset what its rows and settings ask of its labels, as `hsfm.deploy.label_checks` reads it."""
        return {name: self._asked_of_labels(name) for name in self.datasets}

    def _asked_of_labels(self, name: str) -> dict:
        settings = self.settings[name]
        rows = {
            row: {
                **{"label": self.method(row).label, "select_by": settings[row]["select_by"]},
                **{"extra": list(self.method(row).extra), **self.config["labels"][name][row]},
            }
            for row in self.methods_of(name)
            if row != "erm"
        }
        erm = settings["erm"] if name in self.trained else {"early_epoch": None}
        own = any(self.features(row, name) == "own" for row in rows)
        weights = settings["ddb"]["retrain"]["weights"] if "ddb" in rows else None
        prompts = settings["unclip"]["prompts"] if name in self.with_unclip else None
        each = {"ddb/retrain/weights": ("class", weights), "unclip/prompts": ("attribute", prompts)}
        images = settings.get("images", {"metadata": settings["embeddings"]["val"]})
        return {
            "source": images.get("metadata") or images.get("folder") or name,
            "rows": rows,
            "numbers": {key: [of, len(values)] for key, (of, values) in each.items() if values is not None},
            "min_group": settings["embeddings"]["min_group"],
            "extra": [] if erm["early_epoch"] is None else ["early_logits"],
            "holdout": [erm["holdout"], self.runs] if own else None,
            "agreement": settings["validation_bias"]["agreement"] if "validation_bias" in self.studies else None,
        }

    # Inputs by wildcards

    def raw_data(self, wildcards: object) -> list[str]:
        """The files that a dataset is made of, as far as a rule makes them or its table says so."""
        return as_inputs(raw_files(self.settings[wildcards.dataset]["images"]))

    def pixels(self, wildcards: object) -> list[str]:
        """The array of a dataset's images, where there is one."""
        return [f"results/{wildcards.dataset}/pixels.npy"] if wildcards.dataset in self.packed else []

    def store(self, wildcards: object) -> list[str]:
        """The store of a dataset's decoded images, where there is one."""
        folder = f"results/{wildcards.dataset}"
        return [f"{folder}/decoded.npy", f"{folder}/decoded.parquet"] if wildcards.dataset in self.cached else []

    def masks_for(self, *keys: str, run: int | None = None) -> Callable:
        """Masks of training images from the source, heat_map or dataset, that a dataset's settings choose at `keys`."""

        def path(wildcards: object) -> str:
            source = functools.reduce(dict.__getitem__, keys, self.settings[wildcards.dataset])
            number = wildcards.run if run is None else run
            return f"results/{wildcards.dataset}/run{number}/erm/masks/{source}/train.parquet"

        return path

    def tokens(self, wildcards: object) -> list[str]:
        """The learnt token of every class; there are as many as weights of the classes' losses."""
        weights = self.settings[wildcards.dataset]["ddb"]["retrain"]["weights"]
        return [f"results/{wildcards.dataset}/tokens/class{label}.safetensors" for label in range(len(weights))]

    def networks(self, row: str, wildcards: object) -> list[str]:
        """Folders of the networks whose features a row's heads are for: its own, one per seed, or ERM's."""
        folder = f"results/{wildcards.dataset}/run{wildcards.run}"
        features = "erm" if row == "erm" else self.features(row, wildcards.dataset)
        if features == "own_per_seed" or (row == "dac" and wildcards.dataset in self.drifting):
            seeds = [wildcards.seed] if hasattr(wildcards, "seed") else self.seeds
            return [f"{folder}/{row}/seed{seed}" for seed in seeds]
        return [f"{folder}/{self.method(row).name if features == 'own' else 'erm'}"]

    def heads(self, row: str, wildcards: object) -> list[str]:
        """Files of a row's heads: one, or one per network of `networks`."""
        own = f"results/{wildcards.dataset}/run{wildcards.run}/{row}"
        of_seeds = [network for network in self.networks(row, wildcards) if network.startswith(f"{own}/")]
        return [f"{folder}/heads.safetensors" for folder in of_seeds or [own]]

    def to_export(self, wildcards: object) -> dict[str, object]:
        """The network, heads and standardization of a row and seed."""
        folder = self.networks(wildcards.method, wildcards)[0]
        files = {"checkpoint": f"{folder}/backbone.safetensors", "heads": self.heads(wildcards.method, wildcards)}
        return {**files, "standardization": f"{folder}/standardization.safetensors"}

    def scored(self, dataset: str) -> list[str]:
        """The rows whose heads are scored: ERM's and those of all methods of a dataset."""
        return list(dict.fromkeys(["erm", *self.methods_of(dataset)]))

    def to_score(self, wildcards: object) -> dict[str, list[str]]:
        """Heads of all rows of a run, one after the other, and embeddings of all splits of each network of theirs."""
        heads = [file for row in self.scored(wildcards.dataset) for file in self.heads(row, wildcards)]
        networks = dict.fromkeys(network for of_row in self._networks_to_score(wildcards) for network in of_row)
        return {
            "heads": heads,
            "embeddings": expand("{network}/embeddings/{split}.parquet", network=networks, split=SPLITS),
        }

    def networks_to_score(self, wildcards: object) -> list[list[int]]:
        """Of each row the networks of its files of heads, by their place among those of `to_score`."""
        of_rows = self._networks_to_score(wildcards)
        places = {
            network: place for place, network in enumerate(dict.fromkeys(n for of_row in of_rows for n in of_row))
        }
        return [[places[network] for network in of_row] for of_row in of_rows]

    def _networks_to_score(self, wildcards: object) -> list[list[str]]:
        return [self.networks(row, wildcards) for row in self.scored(wildcards.dataset)]

    def results_of_heads(self, name: str) -> list[str]:
        """Scores, method by method, in the order of the tables."""
        return [
            f"results/{dataset}/run{run}/{method}/{name}.parquet"
            for method in self.methods
            for dataset in self.datasets
            if method in self.methods_of(dataset)
            for run in self.runs
        ]

    def scores_of_methods(self, wildcards: object) -> list[str]:
        """The scores of ERM and all methods, run by run."""
        rows, folder = self.scored(wildcards.dataset), f"results/{wildcards.dataset}"
        return [f"{folder}/run{run}/{row}/scores.parquet" for run in self.runs for row in rows]

    def of_study(self, study: str, *datasets: str) -> list[str]:
        """Results of one study, of some datasets; a sweep's lie in parts, some studies' in one file per row."""

        def names(dataset: str) -> list[str]:
            if study == "sweep":
                return [f"studies/sweep_part{part}" for part in range(self.settings[dataset]["sweep"]["parts"])]
            if study == "selection":
                rows = [row for row in self.methods_of(dataset) if row in self.selected]
                return ["erm/scores", *(f"studies/selection_{row}" for row in rows)]
            if study == "validation_bias":
                rows = [row for row in self.methods_of(dataset) if row in self.selected]
                return [f"studies/{study}_{row}" for row in dict.fromkeys([*rows, "dfr"])]  # with what it is paired
            return [f"studies/{study}"]

        path = f"{OF_RUN}/{{name}}.parquet"
        return [file for d in datasets for file in expand(path, dataset=d, run=self.runs, name=names(d))]

    # Shards

    def sharded(self, stage: str, path: str) -> str:
        """Where a job of a stage leaves a file: at its place, or in a folder of its shard until they are gathered."""
        return path if self.shards[stage] == 1 else temp(in_shard(path))

    def log_suffix(self, stage: str) -> str:
        """Of logs: the shard's, where there are several."""
        return "" if self.shards[stage] == 1 else "_{scatteritem}"

    @functools.cached_property
    def saved_config(self) -> dict:
        """All that results are made with, as a configuration: of datasets that were not chosen there is nothing."""
        first = {"datasets": self.datasets, "runs": self.runs, "seeds": self.seeds, "studies": self.studies}
        others = self.config.keys() - {*first, "settings", "methods", "rows", "variants", "labels"}
        variants = self.config["variants"].keys() - methods.found().keys()
        settings = {
            name: {section: own for section, own in self.settings[name].items() if section not in variants}
            for name in self.datasets
        }
        top = in_order({key: self.config[key] for key in others})
        return {**first, "methods": self.config["rows"], **top, "settings": settings}


def in_shard(path: str) -> str:
    """Where one shard of a file lies, for Snakemake's `gather`."""
    folder, name = os.path.split(path)
    return f"{folder}/shards/{{scatteritem}}/{name}"


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint: these names, or none."""
    return "|".join(names) or "(?!)"
