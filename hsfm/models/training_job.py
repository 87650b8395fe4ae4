"""ERM training as a job, in this process or, through torchrun, in one process per GPU.

A script of the workflow runs from a temporary copy, which other processes cannot import: torchrun starts this module,
`python -m hsfm.models.training_job ARGUMENTS.json`.
"""

import ctypes
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from hsfm.core import job
from hsfm.core.device import Compute, ComputeSettings, choose_device
from hsfm.core.files import write_frame
from hsfm.core.naming import naming
from hsfm.data.open_images import open_source
from hsfm.data.table import read_images
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.models.backbone import BackboneSettings, Checkpoint, build_network, describe, write_checkpoint
from hsfm.models.distributed import rank
from hsfm.models.erm import LabeledImages, TrainingData, TrainingSettings, train
from hsfm.models.holdout import hold_out
from hsfm.models.input_size import check_input_size

log = logging.getLogger(__name__)


def start_training(arguments: Mapping[str, Any], *, gpus: int, code: str, log_file: str) -> None:
    """`train_erm` on as many GPUs as the job was given, or on the CPU in this process; resumes what was killed.

    arguments: of `train_erm`, but for device and resume. code: hash of the code, since what a killed training left
    serves the same code alone. Raises ValueError where CUDA shows fewer GPUs.
    """
    device = choose_device(arguments["settings"]["device"])
    processes = max(gpus, 1) if device.type == "cuda" else 1
    if processes > 1 and (there := torch.cuda.device_count()) < processes:
        raise ValueError(f"training_gpus: the job was given {gpus} GPUs, but CUDA shows {there}")
    settings = {**arguments["settings"], "run": arguments["run"], "code": code, "processes": processes}
    with job.resuming(arguments["checkpoint"], job.depends_on(settings, [arguments["images"]], str(device))) as resume:
        if processes > 1:
            launch({**arguments, "resume": str(resume)}, processes, log_file)
        else:
            train_erm(device, **arguments, resume=resume)


def train_erm(
    device: torch.device,
    *,
    images: str,
    cache: Sequence[str],
    checkpoint: str,
    history: str,
    run: int,
    settings: Mapping[str, Any],
    resume: str | Path,
) -> None:
    """Train a network on the training images of a table, and write it with its history.

    settings: plain dicts, since other processes read them and the checkpoint carries them: of TrainingSettings
    (`training`), BackboneSettings (`backbone`), TransformSettings, AugmentationSettings and ComputeSettings; and
    `decode_size`. Of several processes that torch.distributed joins, each calls this and the first writes.
    """
    table, training = read_images(images), TrainingSettings(**settings["training"])
    backbone = BackboneSettings(**settings["backbone"])
    network = build_network(
        backbone.name, len(table.class_names), pretrained=backbone.pretrained, seed=run, weights=backbone.weights
    )
    transform = TransformSettings(**settings["transform"])
    augmentation = AugmentationSettings(**settings["augmentation"])
    check_input_size(network, table, transform, augmentation)
    source, rows = open_source(images, cache), table.split("train")
    if training.holdout is not None:
        held_out = hold_out(torch.tensor(rows["y"].to_numpy("int64")), training.holdout, run)
        rows = rows.drop(rows.index[held_out.numpy()])
    data = TrainingData(
        LabeledImages.of(rows, source),
        LabeledImages.of(table.split("val"), source),
        transform,
        augmentation,
    )
    compute = Compute(device, ComputeSettings(**settings["compute"]))
    with naming(f"{table.dataset}, batch_size {training.batch_size}"):
        trained = train(network, data, training, seed=run, compute=compute, resume=Path(resume))
    if rank() == 0:
        write_frame(history, trained.history)
        metadata = describe(table, run, settings)
        kept = Checkpoint(network, backbone.name, table.class_names, metadata, trained.early_logits)
        write_checkpoint(checkpoint, kept)


def launch(arguments: Mapping[str, Any], processes: int, log_file: str) -> None:
    """`train_erm` in several processes, which torchrun starts and watches over from within this one.

    When one fails the others are stopped, and when this process ends, however it ends, they end with it. Raises the
    error about input that one of them raised as ValueError, and RuntimeError for any other end; tracebacks are in the
    log.
    """
    log.info("training in %d processes", processes)
    # its error says the same
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    # the job's threads are shared out
    os.environ["OMP_NUM_THREADS"] = str(max(torch.get_num_threads() // processes, 1))
    # Snakemake makes this package importable for its script alone
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    with TemporaryDirectory() as folder:
        file = Path(folder, "arguments.json")
        file.write_text(json.dumps({"arguments": arguments, "log_file": log_file}))
        options = ["--standalone", "--nproc-per-node", str(processes), "--log-dir", folder]
        try:
            run(parse_args([*options, "-m", "hsfm.models.training_job", str(file)]))
        except ChildFailedError as error:
            if (text := file.with_suffix(".error")).exists():
                raise ValueError(text.read_text()) from None
            raise RuntimeError(
                "a training process was killed, by hand or for want of memory, or failed: its traceback is in the log"
            ) from error
        used = json.loads(file.with_suffix(".used").read_text())
        job.used(device=f"{processes} x {used['device']}", gpu_memory_mb=used["gpu_memory_mb"])


def main() -> None:
    """One of the processes."""
    # torchrun tells nobody of its own death: the kernel ends this process with the one that has started it
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    file = Path(sys.argv[1])
    given = json.loads(file.read_text())
    arguments, number = given["arguments"], int(os.environ["RANK"])
    job.join(given["log_file"], speaks=number == 0)
    device = choose_device(arguments["settings"]["device"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # dropout draws from the global generator, which would make the same holes in every process
    torch.manual_seed(arguments["run"] * int(os.environ["WORLD_SIZE"]) + number)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        train_erm(device, **arguments)
    except (ValueError, OSError) as error:
        file.with_suffix(".error").write_text(str(error))
        raise
    if number == 0:
        file.with_suffix(".used").write_text(json.dumps(job.resources()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
