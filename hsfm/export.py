"""One file for use elsewhere: a trained network with one method's head in place of its own."""

from pathlib import Path
from types import SimpleNamespace

from hsfm import __version__
from hsfm.backbone import read_checkpoint, write_checkpoint
from hsfm.files import require, sha256
from hsfm.head import SavedHeads, read_heads


def export_model(path: str | Path, *, checkpoint: str | Path, heads: str | Path, seed: int | None = None) -> None:
    """Merge a checkpoint and the head of one seed into one safetensors file, a state dict that torchvision loads as is.

    Takes paths, since its one job is to make one file of two. The head lies under `fc.weight` and `fc.bias`, the
    metadata are the checkpoint's (backbone, classes, transform, ...) and the head's, and `read_checkpoint` reads the
    result. seed: may be left out where `heads` holds one head only. Raises ValueError where the heads belong to another
    checkpoint, or for an unknown seed.
    """
    trained, saved = read_checkpoint(checkpoint), read_heads(heads)
    require(trained.metadata, ["transform"], checkpoint)
    fc, digest = trained.network.fc, sha256(checkpoint)
    # what the heads check is the origin of features; the weight [c d] of the head they replace has the features' d
    origin = SimpleNamespace(features=fc.weight, class_names=trained.class_names, checkpoint_sha256=digest)
    saved.check_fits(origin, checkpoint)
    position = _position(saved, seed, heads)
    head = saved.head[position]
    fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    described = {
        "method": saved.method,
        "seed": str(saved.seeds[position]),
        "group_labels": saved.group_labels,
        "chosen_by": saved.chosen_by,
        "checkpoint_sha256": digest,
        "package_version": __version__,
    }
    write_checkpoint(
        path,
        trained.network,
        name=trained.name,
        class_names=trained.class_names,
        metadata=trained.metadata | described,
    )


def _position(saved: SavedHeads, seed: int | None, source: str | Path) -> int:
    """Where the head of `seed` lies in the stack."""
    seeds = ", ".join(map(str, saved.seeds))
    if seed is None and len(saved.seeds) > 1:
        raise ValueError(f"{source}: holds several {saved.method} heads, name one by its seed: {seeds}")
    if seed is not None and seed not in saved.seeds:
        raise ValueError(f"{source}: no {saved.method} head of seed {seed}; the seeds are {seeds}")
    return 0 if seed is None else saved.seeds.index(seed)
