"""HAM10000 (Tschandl, Rosendahl and Kittler, Scientific Data 2018): malignant or benign, and the patient's age.

    python -m benchmarks.real.lesions FOLDER

FOLDER holds HAM10000_metadata (.csv or .tab) and the images, ISIC_*.jpg, in it or in folders of it. Class: malignant
(mel, bcc, akiec) or benign; attribute: under 55 or from 55 on. One image of each lesion, the first by its id; rows of
unknown age and without an image are left out; the lesions are cut 60 / 20 / 20 at random. Imbalance is natural.
"""

import pandas as pd

from benchmarks.real import metadata

MALIGNANT = ("mel", "bcc", "akiec")
SHARES = (0.6, 0.2, 0.2)


def main() -> None:
    args = metadata.parser(__doc__, "of HAM10000_metadata.csv").parse_args()
    tables = [path for suffix in (".csv", ".tab", "") if (path := args.folder / f"HAM10000_metadata{suffix}").is_file()]
    if not tables:
        raise ValueError(f"{args.folder}: holds no HAM10000_metadata.csv")
    rows = pd.read_csv(tables[0], sep=None, engine="python").sort_values("image_id")
    paths = {path.stem: path for path in args.folder.rglob("ISIC_*.jpg")}
    rows = rows[rows["age"].notna() & rows["image_id"].isin(paths)].drop_duplicates("lesion_id")
    rows = rows.assign(
        path=rows["image_id"].map(paths),
        label=rows["dx"].isin(MALIGNANT).map({True: "malignant", False: "benign"}),
        attribute=(rows["age"] < 55).map({True: "under 55", False: "from 55"}),
    )
    shuffled = rows.sample(frac=1, random_state=args.seed)
    train, val = (round(sum(SHARES[:part]) * len(rows)) for part in (1, 2))
    split = ["train"] * train + ["val"] * (val - train) + ["test"] * (len(rows) - val)
    metadata.write(shuffled.assign(split=split), args)


if __name__ == "__main__":
    main()
