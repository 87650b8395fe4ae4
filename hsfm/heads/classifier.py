"""Load a trained network with one method's head in place of its own."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from hsfm.core.files import sha256
from hsfm.features.standardize import Standardization, read_standardization
from hsfm.heads.head import Head, SavedHeads, read_heads
from hsfm.models.backbone import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class Classifier:
    trained: Checkpoint  # its network's `fc` is the head, on raw features
    saved: SavedHeads  # where that comes from
    seed: int  # which of these
    checkpoint_sha256: str
    standardization: Standardization | None  # of the features that the head was fitted on


def read_classifier(
    checkpoint: str | Path, heads: str | Path, *, seed: int | None = None, standardization: str | Path | None = None
) -> Classifier:
    """A checkpoint whose own head is replaced by one of `heads`.

    seed: may be left out where `heads` holds one head only. standardization: that of the features the heads were fitted
    on, folded into the head. Raises ValueError where heads or standardization belong to another checkpoint, or for an
    unknown seed.
    """
    trained, saved, digest = read_checkpoint(checkpoint), read_heads(heads), sha256(checkpoint)
    fc = trained.network.fc  # its weight [c d] has the features' d
    origin = SimpleNamespace(features=fc.weight, class_names=trained.class_names, checkpoint_sha256=digest)
    saved.check_fits(origin, checkpoint)
    if seed is None and len(saved.seeds) == 1:
        seed = saved.seeds[0]
    if seed not in saved.seeds:
        given = "several heads, name one by its seed" if seed is None else f"no {saved.method} head of seed {seed}"
        raise ValueError(f"{heads}: {given}; the seeds are {', '.join(map(str, saved.seeds))}")
    head, fitting = saved.head[saved.seeds.index(seed)], None
    if standardization is not None:
        fitting, metadata = read_standardization(standardization)
        if metadata["checkpoint_sha256"] != digest:
            theirs = metadata["checkpoint_sha256"]
            raise ValueError(
                f"{standardization}: is for the features of checkpoint {theirs}, but {checkpoint} is {digest}"
            )
        head = Head(*fitting.fold(head.weight, head.bias))
    fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    return Classifier(trained, saved, seed, digest, fitting)
