"""Scripts that turn public releases into metadata.csv, on a few small files in the published layouts."""

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks.real import dominoes, lesions, spawrious, style, urbancars
from hsfm.data.sources import metadata as source
from tests import replicas


def touch(folder: Path, n: int, suffix: str = ".jpg") -> None:
    folder.mkdir(parents=True)
    for number in range(n):
        (folder / f"{folder.name}_{number:03d}{suffix}").touch()


@pytest.fixture
def run(monkeypatch):
    """Run a script's main; the table that it writes."""

    def table(script, folder: Path, *arguments: str) -> pd.DataFrame:
        monkeypatch.setattr(sys, "argv", [script.__name__, str(folder), *arguments])
        script.main()
        rows = pd.read_csv(folder / "metadata.csv")
        assert list(rows) == ["path", "label", "attribute", "split"]
        assert rows["path"].is_unique
        assert all((folder / path).is_file() for path in rows["path"])
        return rows

    return table


def counts(rows: pd.DataFrame) -> dict[tuple[str, str, str], int]:
    return rows.groupby(["split", "label", "attribute"]).size().to_dict()


def test_lesions_are_cut_once_each_and_by_age(run, tmp_path):
    """Two images of most lesions in two folders; one of unknown age, one without a file."""
    for part in ("HAM10000_images_part_1", "HAM10000_images_part_2"):
        (tmp_path / part).mkdir()
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number in range(43):
        dx, age = ("nv", "mel", "bkl", "bcc")[number % 4], 30.0 + 50 * (number % 2)
        for view in (0, 1):
            name = f"ISIC_{2 * number + view:07d}"
            lines.append(f"HAM_{number:07d},{name},{dx},histo,{'' if number == 40 else age},male,back")
            if number != 41:
                (tmp_path / f"HAM10000_images_part_{1 + view}" / f"{name}.jpg").touch()
    (tmp_path / "HAM10000_metadata.csv").write_text("\n".join(lines))
    rows = run(lesions, tmp_path)
    assert rows["split"].value_counts().to_dict() == {"train": 25, "val": 8, "test": 8}
    assert rows["path"].str.contains("part_1").all(), "the first by its id"
    assert (rows["label"] == "malignant").sum() == 20, "every second one, but for one without a file"
    assert set(rows["attribute"]) == {"under 55", "from 55"}
    assert rows.equals(run(lesions, tmp_path)), "the same for one seed"
    assert not rows.equals(run(lesions, tmp_path, "--seed", "1"))


def test_styles_agree_with_the_classes_in_train_alone(run, tmp_path):
    for domain, name in product(("cartoon", "sketch"), ("dog", "elephant", "giraffe", "horse")):
        touch(tmp_path / domain / name, 40)
    rows = run(style, tmp_path, "--test", "20", "--val", "10")
    found = counts(rows)
    assert {found["test", label, art] for label in style.CLASSES for art in ("cartoon", "sketch")} == {20}
    assert {found["val", label, art] for label in style.CLASSES for art in ("cartoon", "sketch")} == {10}
    train = [found["train", label, art] for label in style.CLASSES for art in ("cartoon", "sketch")]
    assert train == [50, 3, 3, 50], "95 %"
    with pytest.raises(ValueError, match=r"no image is left for train after 120 of each group"):
        run(style, tmp_path, "--test", "100", "--val", "20")


def test_spawrious_trains_on_the_benchmarks_places(run, tmp_path):
    for environment, place, breed in product((0, 1), ("desert", "jungle", "dirt", "snow", "beach"), spawrious.BREEDS):
        touch(tmp_path / str(environment) / place / breed, 100, ".png")
    rows = run(spawrious, tmp_path, "--total", "100")
    found = counts(rows)
    assert found["train", "bulldog", "desert"] == 97 + 87
    assert found["train", "corgi", "beach"] == 3 + 13
    assert (found["val", "bulldog", "dirt"], found["test", "bulldog", "dirt"]) == (40, 160)
    assert set(rows.loc[rows["split"] == "train", "attribute"]) == {"desert", "jungle", "dirt", "snow", "beach"}


def test_urban_cars_have_one_or_both_attributes(run, tmp_path):
    for split, part in urbancars.PARTS.items():
        for names in product(urbancars.NAMES, repeat=3):
            folder = tmp_path / part / split / "obj-{}_bg-{}_co_occur_obj-{}".format(*names)
            touch(folder, 2)
            (folder / "000_mask.png").touch()
    rows = run(urbancars, tmp_path)
    assert len(rows) == 3 * 8 * 2
    assert rows["attribute"].nunique() == 4
    assert set(run(urbancars, tmp_path, "--attribute", "background")["attribute"]) == {"urban", "country"}


def test_dominoes_are_composed_with_another_agreement(run, tmp_path, monkeypatch):
    replicas.write_dominoes(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.CIFAR10._load_meta", lambda self: None)
    rows = run(dominoes, tmp_path, "--agreement", "0.75", "--quality", "75")
    train = rows[rows["split"] == "train"]
    agrees = (train["label"] == "truck") == (train["attribute"] == 1)
    assert agrees.mean() == pytest.approx(0.75, abs=0.02)
    image = np.asarray(Image.open(tmp_path / rows["path"].iloc[0]))
    assert image.shape == (64, 32, 3)
    assert (image[32:34] == 0).all(), "the digit's frame"


def test_the_workflow_reads_the_tables(run, tmp_path):
    for domain, name in product(("cartoon", "sketch"), ("dog", "elephant", "giraffe", "horse")):
        (tmp_path / domain / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8)).save(tmp_path / domain / name / f"{number}.jpg")
    rows = run(style, tmp_path, "--test", "5", "--val", "5")
    columns = {"path": "path", "y": "label", "attribute": "attribute", "split": "split"}
    table = str(tmp_path / "metadata.csv")
    settings = source.Settings(source="metadata", folder=str(tmp_path), metadata=table, columns=columns)
    assert len(source.read(settings).rows) == len(rows)
