"""Wild columns of features, and how far they stretch HSFM's edits and figures.

    python -m benchmarks.wild_columns FOLDER/lesions_frozen
    python -m benchmarks.wild_columns results/photos/run0/erm

Reads {NAME}_train.npz, _val.npz and _test.npz with x, y, attribute, standardized as config/frozen.yaml has it, or a
network's folder of the workflow, whose features are taken as they are. Coordinates are in the root mean square
deviation of a column within classes; edits are of one seed. For both axes of the plane of the edits, and of that
without known attributes: their length over that of the central 98 % of validation images, with all images and edits,
and in the figure's frame.
"""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.validation_bias import read_set
from hsfm.analysis.edit_pictures import in_plane
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.features.standardize import FEW
from hsfm.features.standardize import fit as standardization
from hsfm.heads.hard_set import HardSetSettings, build
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm
from hsfm.methods.hsfm.outer_loop import class_radius
from hsfm.methods.hsfm.support import Support
from hsfm.report.figures import frame_around


def stretched(support: Support, train: Embeddings, val: Embeddings) -> str:
    """Both axes' lengths over the central 98 % of validation images: of all that is drawn, and of the frame."""
    plane, axis = in_plane(support, train, val), Figure().subplots()
    points = np.concatenate([*plane["points"].values()])
    every = np.concatenate([points, plane["before"], plane["after"]])
    frame_around(axis, np.concatenate([points, plane["before"]]))
    usual = np.subtract(*np.quantile(points, (0.99, 0.01), axis=0))
    frame = np.array([np.ptp(axis.get_xlim()), np.ptp(axis.get_ylim())])
    return " / ".join(f"{x:.1f} and {y:.1f}" for x, y in (np.ptp(every, axis=0) / usual, frame / usual))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="files' path up to _train.npz, or a network's folder")
    (train, val, _), erm = read_set(parser.parse_args().name)
    squares = (train.features.double() - train.features.double().mean(0)).square()
    wild = squares.sum(0).square() < FEW * squares.square().sum(0)
    unit, hard = class_radius(train) / len(wild) ** 0.5, build(erm, val, per_class=HardSetSettings().hard_per_class)
    with quiet():
        fit = fit_supervised(hsfm, train, val, erm, settings=hsfm.Settings(), seeds=(0,), hard_set=hard)[0]
    rows = fit.tables["support"].to_pandas()
    before, after = (torch.from_numpy(np.stack(rows[when])) for when in ("before", "after"))
    edits, y = after - before, torch.from_numpy(rows["y"].to_numpy("int64"))
    share = (edits[:, wild].square().sum(1) / edits.square().sum(1)).mean()
    support = Support(tuple(rows["seed"]), tuple(rows["image_id"]), y, before, after, train.checkpoint_sha256)
    print(f"{int(wild.sum())} of {len(wild)} columns are wild, {100 * wild.float().mean():.1f} %")
    own, far = train.features.std(0, correction=0), (val.features - train.features.mean(0)).abs().amax(0)
    reached = (
        (far / own)[wild].max(),
        (far * standardization(train.features).factor)[wild].max(),
        (far / own)[~wild].max(),
    )
    print("validation reaches {:.0f} spreads of their own, {:.0f} as standardized, {:.0f} in others".format(*reached))
    largest = [f"{val.features[:, of].abs().max() / unit:.0f}" for of in (wild, ~wild)]
    print(f"in deviations within classes {largest[0]}, {largest[1]} in others")
    print(f"edits: {100 * share:.1f} % of squared length in them, largest coordinate {edits.abs().max() / unit:.1f}")
    print("plane, all / frame:", stretched(support, train, val))
    print("without attributes:", stretched(support, train.without_attributes(), val.without_attributes()))


if __name__ == "__main__":
    main()
