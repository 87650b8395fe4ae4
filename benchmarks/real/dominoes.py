"""Dominoes, composed of CIFAR-10 and MNIST: cars and trucks above the digits 0 and 1, as files.

    python -m benchmarks.real.dominoes FOLDER --agreement 0.95

FOLDER holds MNIST/raw/ and cifar-10-batches-py/, as torchvision downloads them. The images are cut and paired as hsfm's
own source `dominoes` does; here the digits agree with the class for another share of train, and the vehicles can be
compressed as some copies of CIFAR-10 are (--quality 75).
"""

from io import BytesIO

import pandas as pd
from PIL import Image

from benchmarks.real import metadata
from hsfm.data.sources import dominoes
from hsfm.data.table import SPLITS


def main() -> None:
    parser = metadata.parser(__doc__, "of MNIST/raw/ and cifar-10-batches-py/")
    parser.add_argument("--agreement", type=float, default=0.95, help="of train (%(default)s)")
    parser.add_argument("--quality", type=int, help="of JPEG for the vehicles; none by default")
    args = parser.parse_args()
    official, rows = {train: dominoes.read_official(args.folder, train) for train in (True, False)}, []
    for split in SPLITS:
        agreement = args.agreement if split == "train" else dominoes.AGREEMENT[split]
        pixels, group, ids = dominoes.compose(split, *official[split != "test"], agreement)
        folder = args.folder / "dominoes" / split
        folder.mkdir(parents=True, exist_ok=True)
        for image, number, name in zip(pixels, group, ids, strict=True):
            path = folder / f"{name}.png"
            shown = Image.fromarray(image)
            if args.quality is not None:
                shown.paste(compressed(shown.crop((0, 0, 32, 32)), args.quality))
            shown.save(path)
            y, digit = divmod(int(number), 2)
            rows.append((path, dominoes.CLASS_NAMES[y], dominoes.ATTRIBUTE_NAMES[digit], split))
    metadata.write(pd.DataFrame(rows, columns=metadata.COLUMNS), args)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """The image after a round trip through JPEG."""
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


if __name__ == "__main__":
    main()
