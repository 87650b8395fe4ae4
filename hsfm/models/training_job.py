"""ERM training as a job, in this process or, through torchrun, in one process per GPU.

A script of the workflow runs from a temporary copy, which other processes cannot import: torchrun starts this module,
`python -m hsfm.models.training_job ARGUMENTS.json`.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, record

from hsfm.core import job
from hsfm.core.device import Compute, ComputeSettings, choose_device
from hsfm.core.files import fingerprint, write_frame
from hsfm.data.open_images import open_source
from hsfm.data.pixels import common_size
from hsfm.data.store import CacheFiles
from hsfm.data.table import ImageTable, read_images
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.models.backbone import BackboneSettings, Network, build_network, write_checkpoint
from hsfm.models.distributed import Processes
from hsfm.models.erm import LabeledImages, TrainingData, TrainingSettings, train
from hsfm.models.holdout import hold_out

log = logging.getLogger(__name__)


def train_erm(
    *,
    images: str,
    cache: Sequence[str],
    checkpoint: str,
    history: str,
    run: int,
    settings: Mapping[str, Any],
    code: str,
) -> None:
    """Train a network on the training images of a table, and write it with its history.

    settings: plain dicts, since other processes read them and the checkpoint carries them: of TrainingSettings
    (`training`), BackboneSettings (`backbone`), TransformSettings, AugmentationSettings and ComputeSettings; and
    `device`, `decode_size`. code: hash of the code, since what a killed training left serves the same code alone.

    Of several processes that torch.distributed joins, each calls this and the first writes.
    """
    processes, table = Processes.here(), read_images(images)
    training = TrainingSettings(**settings["training"])
    compute = Compute(_device(settings["device"], processes), ComputeSettings(**settings["compute"]))
    backbone = BackboneSettings(**settings["backbone"])
    network = build_network(
        backbone.name, len(table.class_names), pretrained=backbone.pretrained, seed=run, weights=backbone.weights
    )
    # The name says all that the result depends on, so that whatever has changed starts from the beginning.
    where = str(compute.device) if processes.alone else f"{compute.device.type}, {processes.count} processes"
    key = fingerprint(job.depends_on({**settings, "run": run, "code": code}, [images], where))
    resume = Path(checkpoint).with_name(f".resume-{key}.safetensors")
    source = open_source(images, CacheFiles.of(cache, settings["decode_size"]))
    without = None
    if training.holdout is not None:
        without = hold_out(torch.tensor(table.split("train")["y"].to_numpy("int64")), training.holdout, run)
    data = TrainingData(
        LabeledImages.of(table, source, "train", without=without),
        LabeledImages.of(table, source, "val"),
        TransformSettings(**settings["transform"]),
        AugmentationSettings(**settings["augmentation"]),
    )
    frame = train(network, data, training, seed=run, compute=compute, resume=resume)
    if not processes.first:
        return
    write_frame(history, frame)
    _write_network(checkpoint, network, table, run, settings)
    for leftover in resume.parent.glob(".resume-*.safetensors"):
        leftover.unlink()


def _write_network(path: str, network: Network, table: ImageTable, run: int, settings: Mapping[str, Any]) -> None:
    metadata = {
        "dataset": table.dataset,
        "run": str(run),
        "transform": json.dumps(settings["transform"]),
        "image_size": json.dumps(common_size(table.rows)),
        "settings": json.dumps(settings),
    }
    name = settings["backbone"]["name"]
    write_checkpoint(path, network, name=name, class_names=table.class_names, metadata=metadata)


def _device(name: str, processes: Processes) -> torch.device:
    device = choose_device(name)
    alone = processes.alone or device.type == "cpu"
    return device if alone else torch.device(device.type, torch.cuda.current_device())


# A process per GPU ----------------------------------------------------------------------------------------------------


def start_training(arguments: Mapping[str, Any], *, gpus: int, log_file: str) -> None:
    """`train_erm` on as many GPUs as the job was given; on the CPU, in this process.

    Raises ValueError where CUDA shows fewer.
    """
    device = choose_device(arguments["settings"]["device"])
    if gpus > 1 and device.type == "cuda":
        if torch.cuda.device_count() < gpus:
            raise ValueError(
                f"training_gpus: the job was given {gpus} GPUs, but CUDA shows {torch.cuda.device_count()} "
                f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')})"
            )
        launch(arguments, gpus, log_file)
        return
    if gpus > 1:
        log.info("the job was given %d GPUs, but device: %s is the CPU here: one process", gpus, device)
    train_erm(**arguments)


def launch(arguments: Mapping[str, Any], processes: int, log_file: str) -> None:
    """`train_erm` in several processes, which torchrun starts and watches over from within this one.

    When one fails the others are stopped, and when this process ends, however it ends, they end with it. Raises the
    ValueError or FileNotFoundError that one of them raised, and RuntimeError for any other end; tracebacks are in the
    log.
    """
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import run as torchrun

    log.info("training in %d processes", processes)
    # what torchrun itself has to say about failures is said below, in one line
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # the job's threads are shared out
    os.environ["OMP_NUM_THREADS"] = str(max(torch.get_num_threads() // processes, 1))
    # Snakemake makes this package importable for its script alone
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    with TemporaryDirectory() as folder:
        file = Path(folder, "arguments.json")
        file.write_text(json.dumps({**arguments, "parent": os.getpid(), "log_file": str(log_file)}))
        options = ["--standalone", "--nproc-per-node", str(processes), "--log-dir", folder]
        try:
            torchrun(get_args_parser().parse_args([*options, "-m", "hsfm.models.training_job", str(file)]))
        except ChildFailedError as error:
            raise _cause(list(error.failures.values())) from None
        parts = [json.loads(Path(folder, f"used-{rank}.json").read_text()) for rank in range(processes)]
    memory = [part["gpu_memory_mb"] for part in parts if part["gpu_memory_mb"] is not None]
    device = f"{processes} x {parts[0]['device']}" if memory else parts[0]["device"]
    job.used(device=device, gpu_memory_mb=max(memory, default=None), driver=parts[0]["driver"])


def _cause(failures: Sequence[ProcessFailure]) -> Exception:
    """The first failure: one process failing lets the others fail as well, or be stopped."""
    inputs = {"ValueError": ValueError, "FileNotFoundError": FileNotFoundError}
    said = [(failure, *_said(failure)) for failure in failures]
    for _, kind, text in said:
        if kind in inputs:
            return inputs[kind](text)
    stopped = (-signal.SIGTERM, -signal.SIGKILL)  # by torchrun, unless they are all there is
    for failure, _, _ in said:
        if failure.exitcode == -signal.SIGKILL:
            return RuntimeError(
                f"training process {failure.local_rank} was killed (SIGKILL), by hand or because the machine had no "
                "memory left"
            )
    ours = [one for one in said if one[0].exitcode not in stopped] or said
    failure, kind, text = min(ours, key=lambda one: one[0].timestamp)
    return RuntimeError(f"training process {failure.local_rank} failed: {kind}: {text}; its traceback is in the log")


def _said(failure: ProcessFailure) -> tuple[str, str]:
    """Kind and text of a process's error."""
    message = failure.message if isinstance(failure.message, str) else failure.message["message"]
    kind, _, text = message.partition(": ")
    return kind, text


@record
def main() -> None:
    """One of the processes."""
    arguments = json.loads(Path(sys.argv[1]).read_text())
    _end_with(arguments.pop("parent"))
    rank = int(os.environ["RANK"])
    job.join(arguments.pop("log_file"), speaks=rank == 0)
    device = choose_device(arguments["settings"]["device"])
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # dropout draws from the global generator, which would make the same holes in every process
    torch.manual_seed(arguments["run"] * int(os.environ["WORLD_SIZE"]) + rank)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        train_erm(**arguments)
    except OSError as error:
        # of a full disk, say: one line, as `hsfm.core.job` has it
        if error.filename is None or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    Path(sys.argv[1]).with_name(f"used-{rank}.json").write_text(
        json.dumps({**job.resources(), "driver": job.versions()["driver"]})
    )
    dist.destroy_process_group()


def _end_with(parent: int) -> None:
    """End this process as soon as the one that has started it is gone, of whose death torchrun tells nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
