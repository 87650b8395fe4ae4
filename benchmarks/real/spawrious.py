"""Spawrious, one to one (Lynch et al., arXiv 2303.05470): breeds of dogs at places that go with them.

    python -m benchmarks.real.spawrious FOLDER --level easy

FOLDER is spawrious224, with 0/ and 1/ (two environments), in each a folder per place, in each one per breed. Train is
the benchmark's: of each breed 97 % (of 3,168, in environment 0) and 87 % (in 1) at its own place, the rest at one that
all share. The benchmark has no validation split that shows other pairs, which heads are retrained on: here it is a
share of its test images, drawn at random from each breed.
"""

import numpy as np
import pandas as pd

from benchmarks.real import metadata

BREEDS = ("bulldog", "dachshund", "labrador", "corgi")
LEVELS = {  # places of the breeds in train and in test, and the one that all share
    "easy": (("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle"), "beach"),
    "medium": (("mountain", "beach", "dirt", "jungle"), ("jungle", "dirt", "beach", "snow"), "desert"),
    "hard": (("jungle", "mountain", "snow", "desert"), ("mountain", "snow", "desert", "jungle"), "beach"),
}
SHARES = (0.97, 0.87)  # by environment, of a breed's images at its own place


def main() -> None:
    parser = metadata.parser(__doc__, "spawrious224")
    parser.add_argument("--level", choices=LEVELS, default="easy", help="(%(default)s)")
    parser.add_argument("--total", type=int, default=3168, help="training images of a breed (%(default)s)")
    parser.add_argument("--val", type=float, default=0.2, help="share of the test images (%(default)s)")
    args = parser.parse_args()
    places, others, shared = LEVELS[args.level]
    rng, rows = np.random.default_rng(args.seed), []
    for breed, place, other in zip(BREEDS, places, others, strict=True):
        for environment, share in enumerate(SHARES):
            own = int(share * args.total)
            folder = args.folder / str(environment)
            for where, limit in ((place, own), (shared, args.total - own)):
                found = metadata.images_in(folder / where / breed)[:limit]
                rows += [(path, breed, where, "train") for path in found]
            found = metadata.images_in(folder / other / breed)
            val, test = metadata.draw(found, (n := round(args.val * len(found)), len(found) - n), rng)
            rows += [(path, breed, other, split) for split, part in (("val", val), ("test", test)) for path in part]
    metadata.write(pd.DataFrame(rows, columns=metadata.COLUMNS), args)


if __name__ == "__main__":
    main()
