"""PACS (Li et al., ICCV 2017): dogs and elephants, or giraffes and horses, as cartoons or sketches.

    python -m benchmarks.real.style FOLDER

FOLDER holds cartoon/ and sketch/, each with dog/, elephant/, giraffe/ and horse/. Test has 200 images of each group,
val 100; in train the style agrees with the class for 95 %, with as many images as the smaller pool leaves, at most 800.
"""

import numpy as np
import pandas as pd

from benchmarks.real import metadata

CLASSES = {"dog_elephant": ("dog", "elephant"), "giraffe_horse": ("giraffe", "horse")}
AGREES = {"dog_elephant": "cartoon", "giraffe_horse": "sketch"}  # the style that most of a class has in train
MOST, AGREEMENT = 800, 0.95


def main() -> None:
    parser = metadata.parser(__doc__, "of cartoon/ and sketch/")
    parser.add_argument("--test", type=int, default=200, help="images of each group (%(default)s)")
    parser.add_argument("--val", type=int, default=100, help="images of each group (%(default)s)")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pools = {
        (label, style): [path for name in names for path in metadata.images_in(args.folder / style / name)]
        for label, names in CLASSES.items()
        for style in ("cartoon", "sketch")
    }
    held_out = args.test + args.val
    n = min(MOST, *(len(pools[label, style]) - held_out for label, style in AGREES.items()))
    if n < 1:
        raise ValueError(f"{args.folder}: no image is left for train after {held_out} of each group")
    rows = []
    for (label, style), pool in pools.items():
        train = n if AGREES[label] == style else round(n * (1 - AGREEMENT) / AGREEMENT)
        parts = metadata.draw(pool, (args.test, args.val, train), rng)
        rows += [
            (path, label, style, split)
            for split, paths in zip(("test", "val", "train"), parts, strict=True)
            for path in paths
        ]
    metadata.write(pd.DataFrame(rows, columns=metadata.COLUMNS), args)


if __name__ == "__main__":
    main()
