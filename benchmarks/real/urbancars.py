"""UrbanCars (Li et al., "A Whac-A-Mole Dilemma", CVPR 2023): urban or country cars, and what is around them.

    python -m benchmarks.real.urbancars FOLDER --attribute background

FOLDER is what the authors' generator writes: bg-0.95_co_occur_obj-0.95/train and bg-0.5_co_occur_obj-0.5/{val,test}, in
each a folder obj-X_bg-Y_co_occur_obj-Z for X, Y and Z of urban and country. Attribute: the background, the object
beside the car, or both as one of four.
"""

from itertools import product

import pandas as pd

from benchmarks.real import metadata

NAMES = ("urban", "country")
PARTS = {"train": "bg-0.95_co_occur_obj-0.95", **dict.fromkeys(("val", "test"), "bg-0.5_co_occur_obj-0.5")}
ATTRIBUTES = {
    "background": "{background}",
    "object": "{beside}",
    "both": "{background} background, {beside} object",
}


def main() -> None:
    parser = metadata.parser(__doc__, "of bg-0.95_co_occur_obj-0.95/ and bg-0.5_co_occur_obj-0.5/")
    parser.add_argument("--attribute", choices=ATTRIBUTES, default="both", help="(%(default)s)")
    args = parser.parse_args()
    rows = []
    for split, part in PARTS.items():
        for car, background, beside in product(NAMES, NAMES, NAMES):
            folder = args.folder / part / split / f"obj-{car}_bg-{background}_co_occur_obj-{beside}"
            attribute = ATTRIBUTES[args.attribute].format(background=background, beside=beside)
            # PNGs beside the photographs are cut out of them
            found = [path for path in metadata.images_in(folder) if path.suffix == ".jpg"]
            rows += [(path, car, attribute, split) for path in found]
    metadata.write(pd.DataFrame(rows, columns=metadata.COLUMNS), args)


if __name__ == "__main__":
    main()
