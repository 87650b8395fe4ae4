"""Faults outside the code: killed jobs, full and read-only disks, damaged and deleted files, clocks, locks.

docs/how-to/after-an-error.md has a table of all of them.
"""

import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hsfm_workflow.report import DRAWN, STUDIES, STUDY_FIGURES

from benchmarks import random_models
from hsfm.core.files import read_frame
from hsfm.data.table import read_images
from hsfm.evaluation.predictions import read_predictions
from hsfm.evaluation.scores import read_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.features.standardize import read_standardization
from hsfm.heads.head import read_heads
from hsfm.heads.known_methods import found
from hsfm.models.backbone import read_checkpoint
from hsfm.models.clip import transform_named
from tests import fork_server, replicas
from tests.conftest import planted
from tests.loopback import Server
from tests.repository import ROOT, copy_repository, planned_by, snakemake

# Killed jobs ----------------------------------------------------------------------------------------------------------

# In every script's process: the first job of each rule dies at its first rename, when a file is whole but not yet under
# its name, and in its second life at the second, between two files. What lies there then is written down.
KILLER = """
import hashlib, json, os, pathlib, signal, sys

state, here = pathlib.Path(os.environ.get("HSFM_TEST_KILLS", "")), os.getcwd()
renamed = 0


def die_in(rule, job):
    global renamed
    claim = state / f"{rule}.job"
    try:
        with open(claim, "x") as file:
            file.write(job)
    except FileExistsError:
        if claim.read_text() != job:
            return
    renamed += 1
    life = len(list(state.glob(f"{rule}.life*")))
    if life < 2 and renamed == life + 1:
        files = (path for folder in ("results", "data") for path in pathlib.Path(folder).rglob("*") if path.is_file())
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        (state / f"{rule}.life{life}").write_text(json.dumps(found))
        os.kill(os.getpid(), signal.SIGKILL)


def before(rename):
    def watched(source, target, **options):
        job = getattr(sys.modules["__main__"], "snakemake", None)
        inside = os.path.relpath(target, here).split(os.sep)[0] in ("results", "data")
        if job is not None and inside and "HSFM_TEST_KILLS" in os.environ:
            die_in(job.rule, str(job.log))
        return rename(source, target, **options)

    return watched


os.replace, os.rename = before(os.replace), before(os.rename)
"""
NOT_KILLED = {
    "all": "has no job of its own",
    "describe": "has no job of its own",
    "stage": "is what other rules have in common",
    "stage_on_device": "is what other rules have in common",
}
FAST = {
    "erm_head": {"C": 0.1},
    "hsfm": {"support_per_class": 8, "inner_steps": 2, "support_steps": 2, "epochs": 2},
    "hard_set": {"hard_per_class": 4},
}


def rules() -> set[str]:
    """Names of all rules of the workflow; the downloads get theirs from what there is to download."""
    text = "".join(path.read_text() for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")])
    named = re.findall(r"^ *(?:use rule \w+ as|rule) (\w+)", text, re.MULTILINE)
    drawn = [f"draw_{figure}" for figure in (*DRAWN, *STUDY_FIGURES)]
    drawn += [f"fit_{name}" for name, method in found().items() if not method.images]
    return {*named, *drawn, *(f"tabulate_{study}" for study in STUDIES), "download_waterbirds", "download_dominoes"}


def serve_datasets(server: Server, folder: Path) -> None:
    """Replicas of Waterbirds and of what Dominoes is made of, packed as they are on the web."""
    replicas.write_waterbirds(folder / "waterbird_complete95_forest2water2")
    replicas.write_dominoes(folder / "dominoes")
    (folder / "dominoes/cifar-10-batches-py/batches.meta").write_bytes(b"")
    for name, source in (
        ("waterbird_complete95_forest2water2", folder / "waterbird_complete95_forest2water2"),
        ("cifar-10-python", folder / "dominoes/cifar-10-batches-py"),
    ):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            archive.add(source, source.name)
    served = {f"/{path.name}": path.read_bytes() for path in folder.glob("*.tar.gz")}
    raw = (folder / "dominoes/MNIST/raw").iterdir()
    server.data = served | {f"/{path.name}.gz": gzip.compress(path.read_bytes(), mtime=0) for path in raw}


def download_from(folder: Path, server: Server) -> None:
    """Have a copy of the repository download from there."""
    module = folder / "hsfm/data/download.py"
    text = re.sub(
        r"https://(nlp\.stanford\.edu/data/dro|ossci-datasets\.s3\.amazonaws\.com/mnist|www\.cs\.toronto\.edu/~kriz)",
        f"http://127.0.0.1:{server.server_port}",
        module.read_text(),
    )
    module.write_text(re.sub(r'"[0-9a-f]{32}"', "None", text))


def write_everything(folder: Path) -> list[list[str]]:
    """Tiny datasets of every kind in a copy of the repository, and calls of Snakemake that together run every rule."""
    models = folder.parent.parent / "models"  # the same for all copies
    if not models.exists():
        random_models.write_all(models)
        random_models.write_unclip(models / "unclip")
        random_models.write_clip(models / "clip")
    replicas.write_metadata(folder / "photos", classes=("cat", "dog"))
    for seed, (split, counts) in enumerate({"train": [30, 4, 4, 30], "val": [8] * 4, "test": [8] * 4}.items()):
        e = planted(split, counts, seed=seed)
        np.savez(folder / f"{split}.npz", x=e.features.numpy(), y=e.y.numpy(), attribute=e.attribute.numpy())
    how = {"local_files_only": True, "precision": "auto", "attention_slicing": False, "cpu_offload": False}
    names = ("text_to_image", "inpainting", "detector", "segmenter")
    ddb = {
        "sources_per_class": 6,
        "images_per_source": 2,
        "seed": 0,
        "prune": {"attribution": 0.5, "steps": 2, "batch_size": 16},
        "retrain": {"weights": [6, 10], "lr": 0.001, "batch_size": 16, "epochs": 2},
    }
    settings = {
        "minibirds": {
            "ddb": {"generator": "cut_paste", "cut_paste": {"masks": "dataset", "margin": 1, "radius": 3}, **ddb},
            "sweep": {"parts": 1},
        },
        "waterbirds": {
            "base": "minibirds",
            "images": {"source": "waterbirds", "folder": "data/waterbirds", "allow_other_counts": True,
                       "on_bad_image": "stop"},
            "decode_size": "original",
            "backbone": {"name": f"open_clip:{models / 'clip'}", "pretrained": True, "train": False},
            "transform": transform_named(str(models / "clip")),
            "embeddings": {"batch_size": 16, "standardize": {"scale": 0.5}},
            "ddb": {
                "generator": "diffusion",
                **ddb,
                "models": {**{name: {"name": str(models / name), "revision": None} for name in names}, **how},
                "token": {"images": 2, "size": [16, 16], "initial_word": "bird", "steps": 2, "batch_size": 1,
                          "accumulation": 1, "lr": 0.01, "seed": 0},
                "segment": {"prompt": "bird.", "box_threshold": 0.3, "text_threshold": 0.25, "batch_size": 4},
                "inpaint": {"prompt": "a photo of a {token} bird", "size": [32, 32], "steps": 2, "guidance": 7.5,
                            "batch_size": 1},
            },
            "unclip": {"model": {"name": str(models / "unclip"), "revision": None}, **how, "rows_per_group": 1,
                       "prompts": ["a bird on land", "a bird on water"], "size": [32, 32], "steps": 2, "guidance": 10,
                       "noise_level": 0, "batch_size": 4, "seed": 0},
            **FAST,
        },
        "given": {"base": "minibirds", "embeddings": {split: f"{split}.npz" for split in ("train", "val", "test")},
                  **FAST},
        "mine": {
            "base": "minibirds",
            "images": {"source": "metadata", "folder": "photos", "metadata": "photos/metadata.csv",
                       "columns": replicas.METADATA_COLUMNS, "on_bad_image": "stop"},
            "pixels": "files",
        },
        "dominoes": {"base": "minibirds", "images": {"source": "dominoes", "folder": "data/dominoes",
                                                     "allow_other_counts": True}},
    }  # fmt: skip

    def overlay(*datasets: str) -> list[str]:
        config = {"datasets": list(datasets), "seeds": [0], "methods": ["erm", "hsfm"], "device": "cpu",
                  "settings": {name: settings[name] for name in datasets}}  # fmt: skip
        (folder / f"{datasets[-1]}.yaml").write_text(yaml.safe_dump(config))
        return ["--configfile", "config/minimal.yaml", f"{datasets[-1]}.yaml"]

    tables, figures, birds, water = "results/tables", "results/figures", "results/minibirds/run0", "results/waterbirds"
    return [
        [*overlay("minibirds"), "--config", "shards={embedding: 2, masks: 2, generation: 2}", "--",
         *(f"{tables}/{name}.md" for name in ("main", "edits", *STUDIES, "settings")), "results/config.yaml",
         *(f"{figures}/minibirds/{name}.png" for name in (*DRAWN, *STUDY_FIGURES)),
         *(f"{figures}/minibirds/{name}.png" for name in ("tradeoff", "method", "edits", "masks", "generated")),
         "results/minibirds/card.md", "results/report.html",
         *(f"{birds}/{method}/heads.safetensors" for method in ("dfr", "llr", "afr", "dac")),
         *(f"{birds}/studies/{name}.parquet" for name in ("ablations", "validation_bias")),
         f"{birds}/ddb/seed0/embeddings/test.parquet", f"{birds}/hsfm/model_seed0.safetensors"],
        [*overlay("waterbirds", "given"), "--",
         f"{water}/run0/ddb/generated.parquet", f"{figures}/waterbirds/unclip.png", f"{figures}/given/edits.png"],
        [*overlay("minibirds", "mine", "dominoes"), "--config", "settings={minibirds: {dac: {batchnorm: drift}}}", "--",
         f"{birds}/dac/seed0/embeddings/test.parquet", "results/mine/images.parquet",
         "data/dominoes/cifar-10-batches-py/test_batch"],
    ]  # fmt: skip


# what says how long it took, and which jobs had ended when it was made: no two runs are the same in that
TIMES = ("costs", "stages", "versions", "time", "report")


def contents(folder: Path) -> dict[str, str]:
    """Hash of every result and every file of downloaded data, hidden ones too."""
    files = [path for part in ("results", "data") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.stem not in TIMES
    }


def test_a_job_of_every_rule_is_killed_twice_and_nothing_is_lost(tmp_path, server, monkeypatch):
    serve_datasets(server, tmp_path / "served")
    undisturbed, killed = (copy_repository(tmp_path / name / "hsfm") for name in ("undisturbed", "killed"))
    state = tmp_path / "state"
    state.mkdir()
    whole: dict[str, set[str]] = {}  # what each file may hold: the last call changes some that the first has made
    with fork_server.started(tmp_path, before=KILLER) as probe:
        for folder, options in ((undisturbed, []), (killed, ["--retries", "2"])):
            download_from(folder, server)
            for arguments in write_everything(folder):
                snakemake(folder, "--notemp", *options, *arguments, also_on_path=probe)
                if folder == undisturbed:
                    for path, digest in contents(folder).items():
                        whole.setdefault(path, set()).add(digest)
            monkeypatch.setenv("HSFM_TEST_KILLS", str(state))
    lives = {path.name.split(".")[0]: json.loads(path.read_text()) for path in state.glob("*.life0")}
    assert set(lives) | set(NOT_KILLED) == rules()
    assert not set(lives) & set(NOT_KILLED)
    for path in state.glob("*.life*"):
        for name, digest in json.loads(path.read_text()).items():
            if (
                not Path(name).name.endswith((".part", ".part.json", ".journal"))
                and "/." not in name
                and (Path(name).stem not in TIMES)
            ):
                assert digest in whole[name], f"{name} was half written when {path.name} ended"
    assert contents(killed) == contents(undisturbed), "all bytes are the same, and nothing else lies there"
    assert (killed / "results/report.html").read_text().endswith("</html>\n")
    for log, text in {
        "minibirds/run0/train_erm": "resuming after epoch 1 of 2",
        "minibirds/run0/train_on_share": "resuming after epoch 1 of 2",
        "minibirds/run0/fit_ddb_seed*": "resuming after epoch 1 of 2",
        "waterbirds/learn_token_*": "resuming after step 2 of 2",  # of whichever class began first
    }.items():
        assert any(text in path.read_text() for path in (killed / "logs").glob(f"{log}.log")), log


# A finished run that things happen to ---------------------------------------------------------------------------------

RUN = "results/minibirds/run0"
BEFORE_DFR = f"{RUN}/erm/embeddings/val.parquet"


@pytest.fixture(scope="module")
def probe(tmp_path_factory) -> Path:
    with fork_server.started(tmp_path_factory.mktemp("forks")) as folder:
        yield folder


@pytest.fixture(scope="module")
def arguments() -> list[str]:
    return ["--configfile", "config/minimal.yaml", "--config", "methods=[erm, dfr]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, probe, arguments) -> Path:
    """A copy in which ERM and DFR have run on the minimal configuration."""
    folder = copy_repository(tmp_path_factory.mktemp("finished") / "hsfm")
    snakemake(folder, *arguments, also_on_path=probe)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of it that keeps Snakemake's records."""
    return shutil.copytree(finished, tmp_path / "hsfm")


def errors(out: str) -> list[str]:
    """The error lines of a workflow's output; Snakemake's own account of the job that failed is not counted."""
    return [line for line in out.splitlines() if line.startswith("ERROR: ")]


def with_mounts(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a shell script in a mount namespace of its own, as root or as a user who may be root in there."""
    namespaces = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
    for namespace in namespaces:
        possible = subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", folder / "results"], capture_output=True)
        if possible.returncode == 0:
            break
    else:
        pytest.skip(f"nothing can be mounted here: {possible.stderr.decode().strip()}")
    return subprocess.run(
        [*namespace, "sh", "-ec", script], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    )  # fmt: skip


def call(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "snakemake", "--cores", "2", *arguments])


WRITERS = """
import sys
from pathlib import Path

import numpy as np, pandas as pd, pyarrow as pa, torch
from matplotlib.figure import Figure

sys.path.insert(0, TESTS)
from tests.conftest import planted
from hsfm.core import files, shards
from hsfm.report import figures
from hsfm.features.embeddings import write_embeddings
from hsfm.data.store import CacheFiles, decode_images
from tests import replicas

numbers = np.random.default_rng(0).random(100_000)


def csv(path):
    with files.write_atomically(path) as temporary:
        pd.DataFrame({"a": numbers}).to_csv(temporary)


def picture(path):
    figure = Figure()
    figure.subplots().imshow(numbers.reshape(400, 250))
    figures.save(figure, path)


def cache(path):
    rows = replicas.write_metadata(Path("photos")).rename(columns={"id": "image_id", "file": "path"})
    decode_images(rows, "photos", CacheFiles(path, path.with_suffix(".parquet"), {}), workers=1)


def in_parts(path):
    rows, make = pd.DataFrame({"a": numbers}), lambda parts, done: map(pa.Table.from_pandas, parts)
    shards.write_rows_in_parts(path, rows, make, size=50_000, what="rows", depends_on=0)


for name, write in {
    "frame.parquet": lambda path: files.write_frame(path, pd.DataFrame({"a": numbers})),
    "heads.safetensors": lambda path: files.write_safetensors(path, {"a": torch.tensor(numbers)}, {}),
    "pixels.npy": lambda path: files.write_array(path, numbers),
    "embeddings.parquet": lambda path: write_embeddings(path, planted("val", [300] * 4, seed=0, d=100)),
    "shards.parquet": in_parts,
    "table.csv": csv,
    "figure.png": picture,
    "figure.pdf": picture,
    "decoded.npy": cache,
}.items():
    path = Path("results", name)
    try:
        write(path)
        print("WRITTEN", path)
    except OSError as error:
        print("OSError", error.filename, "|", error.strerror)
    except ValueError as error:
        print("ValueError", error)
    print("LEFT", [str(left) for left in Path("results").rglob("*") if left.is_file()])
"""


def test_a_full_disk_is_named_whatever_is_written(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "write.py").write_text(WRITERS.replace("TESTS", repr(str(ROOT / "tests"))))
    program = shlex.join([sys.executable, "write.py"])
    done = with_mounts(
        f"mount -t tmpfs -o size=96k none results; PYTHONPATH={shlex.quote(str(ROOT))} {program}", tmp_path
    )
    said = [line for line in done.stdout.splitlines() if line.startswith(("OSError", "ValueError", "WRITTEN", "LEFT"))]
    assert len(said) == 18, done.stdout
    for failed, left in zip(said[::2], said[1::2], strict=True):
        assert left == "LEFT []"
        assert re.fullmatch(
            r"OSError results/\S+ \| cannot be written \(no space left on device\)"
            r"|ValueError results/decoded.npy: the decoded images need .*, but .* are free there; .*",
            failed,
        )


def test_a_full_disk_stops_its_job_with_one_line_and_a_rerun_completes(finished, tmp_path, arguments):
    folder = copy_repository(tmp_path / "hsfm")
    (folder / "results").mkdir()
    target = f"{RUN}/dfr/heads.safetensors"
    done = with_mounts(
        "mount -t tmpfs -o size=400k none results\n"
        f"{call(*arguments, '--', target)} && exit 1\n"
        "find results -type f; echo MORE\n"
        "mount -o remount,size=100m results\n"
        f"{call(*arguments, '--', target)}\n"
        "cp -r results kept",
        folder,
    )
    assert done.returncode == 0, done.stdout
    before, after = done.stdout.split("MORE\n")
    (error,) = errors(before)
    assert re.match(r"ERROR: results/minibirds/pixels.npy: cannot be written \(no space left on device\)", error)
    assert "Traceback" not in before
    assert not re.search(r"^results/.*", before.split("failed")[-1], re.MULTILINE), "nothing half written"
    assert not errors(after)
    (folder / "results").rmdir()
    (folder / "kept").rename(folder / "results")
    ours, whole = contents(folder), contents(finished)
    assert target in ours
    assert all(whole[path] == digest for path, digest in ours.items())


@pytest.mark.parametrize("part", ["results", "."])
def test_a_read_only_folder_is_said_before_a_job_runs(tmp_path, arguments, part):
    folder = copy_repository(tmp_path / "hsfm")
    (folder / "results").mkdir()
    done = with_mounts(
        f"mount --bind {part} {part}; mount -o remount,ro,bind {part}; cd {shlex.quote(str(folder))}\n"
        f"{call(*arguments)}",
        folder,
    )
    assert done.returncode != 0
    assert errors(done.stdout) == [f"ERROR: {(folder / part).resolve()}: is read-only, but the workflow writes there"]
    assert "Traceback" not in done.stdout
    assert "Packing the images" not in done.stdout


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    """A folder that became read-only meanwhile."""
    (tmp_path / "results").mkdir()
    program = "from hsfm.core.files import write_array; import numpy; write_array('results/a/x.npy', numpy.ones(3))"
    done = with_mounts(
        f"mount -t tmpfs -o ro none results; PYTHONPATH={shlex.quote(str(ROOT))} "
        f"{shlex.join([sys.executable, '-c', program])}",
        tmp_path,
    )
    assert "OSError: [Errno 30] cannot be written (read-only file system): 'results/a/x.npy'" in done.stdout


@pytest.mark.parametrize(
    ("deleted", "jobs"),
    [
        ("results/tables/main.md", {"make_tables": 1, "write_report": 1}),
        (f"{RUN}/erm/scores.parquet", {}),
        (BEFORE_DFR, {}),
        ("results/minibirds/pixels.npy", {}),
    ],
)
def test_a_deleted_output_is_made_again_where_something_needs_it(copied, arguments, deleted, jobs):
    (copied / deleted).unlink()
    assert planned_by(copied, *arguments) == jobs
    forced = planned_by(copied, *arguments, "--", deleted)
    assert forced[{"main.md": "make_tables", "pixels.npy": "pack_images", "val.parquet": "extract_embeddings",
                   "scores.parquet": "score_heads"}[Path(deleted).name]] == 1  # fmt: skip


def test_an_intermediate_file_that_was_deleted_is_there_again_when_asked_for(copied, finished, arguments, probe):
    (copied / BEFORE_DFR).unlink()
    snakemake(copied, *arguments, "--", BEFORE_DFR, also_on_path=probe)
    assert planned_by(copied, *arguments) == {}, "small files are compared by what they hold"
    assert contents(copied) == contents(finished)


# Damaged files --------------------------------------------------------------------------------------------------------

READERS = {
    "images.parquet": read_images,
    "backbone.safetensors": read_checkpoint,
    "standardization.safetensors": read_standardization,
    "history.parquet": lambda path: read_frame(path, ["epoch", "train_loss", "val_average"]),
    "val.parquet": read_embeddings,
    "heads.safetensors": read_heads,
    "scores.parquet": read_scores,
    "predictions.parquet": read_predictions,
}


@pytest.mark.parametrize("name", READERS)
def test_no_cut_goes_unnoticed(finished, tmp_path, name):
    (source, *_) = sorted((finished / "results").rglob(name))
    whole, path = source.read_bytes(), tmp_path / name
    for kept in (0, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            READERS[name](path)


@pytest.mark.parametrize(
    ("damaged", "reader"),
    [
        (BEFORE_DFR, "fit_dfr"),
        (f"{RUN}/erm/backbone.safetensors", "extract_embeddings"),
        (f"{RUN}/dfr/heads.safetensors", "score_heads"),
        ("results/minibirds/images.parquet", "extract_embeddings"),
    ],
)
def test_a_damaged_file_is_named_and_one_command_makes_it_anew(copied, finished, arguments, probe, damaged, reader):
    path = copied / damaged
    path.write_bytes(path.read_bytes()[:-9])
    command = ["--forcerun", reader, "--", "results/tables/main.md"]
    done = snakemake(copied, *arguments, *command, check=False, also_on_path=probe)
    assert done.returncode != 0
    found = errors(done.stdout)
    assert found
    assert all(line.startswith(f"ERROR: {damaged}: ") for line in found)
    snakemake(copied, *arguments, "--forcerun", damaged, also_on_path=probe)
    assert contents(copied) == contents(finished)


# Two at once, clocks, logs --------------------------------------------------------------------------------------------


def test_a_second_snakemake_is_refused_and_the_first_goes_on(finished, tmp_path, arguments):
    folder = copy_repository(tmp_path / "hsfm")
    script = folder / "workflow/scripts/pack_images.py"
    waits = "import time\nfrom pathlib import Path\n\nwhile not Path('go').exists():\n    time.sleep(0.05)\n"
    script.write_text(
        script.read_text().replace("    job.start(", f"{textwrap.indent(waits, '    ')}    job.start(", 1)
    )
    target = "results/minibirds/pixels.npy"
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments, "--", target]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with open(tmp_path / "out", "w") as out:
        first = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            while not list(folder.glob(".snakemake/locks/*")):
                assert first.poll() is None, (tmp_path / "out").read_text()
                time.sleep(0.05)
            second = snakemake(folder, *arguments, "--", target, check=False)
            assert second.returncode != 0
            assert "Directory cannot be locked" in second.stdout
            assert first.poll() is None
        finally:
            (folder / "go").touch()
            assert first.wait(60) == 0
    assert contents(folder)[target] == contents(finished)[target]


def date(folder: Path, seconds: float, *parts: str) -> None:
    """Move the dates of files by so much."""
    for part in parts:
        for path in [folder / part, *(folder / part).rglob("*")]:
            if path.is_file():
                status = path.stat()
                os.utime(path, (status.st_atime + seconds, status.st_mtime + seconds))


YEAR = 365 * 86_400


@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_a_clock_that_jumped_while_results_were_made_reruns_nothing(copied, arguments, seconds):
    date(copied, seconds, "results", "logs")
    before = {path: path.stat().st_mtime_ns for path in (copied / "results").rglob("*")}
    assert "Nothing to be done" in snakemake(copied, "--dry-run", *arguments).stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing dates a file anew"


@pytest.mark.parametrize("parts", [["results", "logs"], ["hsfm", "workflow"]])
@pytest.mark.parametrize("seconds", [YEAR, -YEAR])
def test_changed_code_is_seen_whatever_the_dates(copied, arguments, parts, seconds):
    """Its text counts, as changed settings do."""
    date(copied, seconds, *parts)
    module = copied / "hsfm/methods/dfr.py"
    before = module.stat()
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    os.utime(module, (before.st_atime, before.st_mtime - 3600))  # as from an archive
    assert planned_by(copied, *arguments) == {
        "fit_dfr": 1, "score_heads": 1, "make_tables": 1, "describe_results": 1, "draw_scores": 1,
        "write_report": 1,
    }  # fmt: skip


def test_logs_that_were_deleted_rerun_nothing_and_come_again(copied, finished, arguments, probe):
    shutil.rmtree(copied / "logs")
    assert planned_by(copied, *arguments) == {}
    snakemake(copied, *arguments, "--forcerun", "fit_dfr", also_on_path=probe)
    assert (copied / "logs/minibirds/run0/fit_dfr.log").exists()
    assert contents(copied) == contents(finished)


def test_folders_of_logs_that_vanish_meanwhile_are_made_again(tmp_path):
    """By a job: Snakemake made them before it."""
    job_log = tmp_path / "logs/minibirds/fit.log"
    program = f"from hsfm.core import job; job.start({str(job_log)!r}); raise ValueError('x: is wrong')"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stderr == "ERROR: x: is wrong\n"
    assert "is wrong" in job_log.read_text()
