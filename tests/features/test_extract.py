"""From an image table to embeddings: every source of pixels, any number of images."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.core.device import Compute
from hsfm.core.shards import WHOLE, Shard
from hsfm.data import table as images_module
from hsfm.data.open_images import open_source
from hsfm.data.pixels import ImageFiles, Images, pack
from hsfm.data.store import CacheFiles, decode_images
from hsfm.data.table import SPLITS, ImageTable, complete, read_images, read_names, read_pieces, write_images
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.features.embeddings import Embeddings, read_embeddings, write_pieces
from hsfm.features.extract import embed_images, embed_table, feature_function
from hsfm.models.backbone import build_network

TRANSFORM = TransformSettings(resize=[20, 20], crop=[16, 16], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
COMPUTE = Compute(torch.device("cpu"))


def rows_of(n: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"image {i}" for i in range(n)],
            "y": np.arange(n) % 2,
            "attribute": pd.array(np.where(np.arange(n) % 5 == 0, None, np.arange(n) // 2 % 2), "Int32"),
            "split": np.array(SPLITS)[np.arange(n) // 2 % 3],
        }
    )


def table_of(rows: pd.DataFrame, folder: str) -> ImageTable:
    return ImageTable(complete(rows, ("in", "out")), "toy", ("cat", "dog"), ("in", "out"), folder)


@pytest.fixture
def photos(tmp_path):
    """A table of image files of several sizes, and its path."""
    rng = np.random.default_rng(0)
    rows = rows_of(60).assign(path=[f"{i:02d}.{('jpg', 'png')[i % 2]}" for i in range(60)])
    sizes = rng.integers(18, 50, (60, 2))
    for path, (h, w) in zip(rows["path"], sizes, strict=True):
        Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).save(tmp_path / path)
    table = table_of(rows.assign(height=sizes[:, 0], width=sizes[:, 1]), str(tmp_path))
    write_images(tmp_path / "images.parquet", table)
    return table, tmp_path / "images.parquet"


@pytest.fixture
def network():
    network = build_network("small_resnet", 2, seed=0)
    network.train()(torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    return network.eval()


def features(network, path: Path, source, split="test", batch_size=7) -> torch.Tensor:
    out = path.with_name(f"{split}.parquet")
    write_pieces(out, pieces(network, path, source, split, batch_size))
    return read_embeddings(out, split=split).features


def pieces(network, path: Path, source, split: str, batch_size: int, shard: Shard = WHOLE) -> Iterator[Embeddings]:
    return embed_table(
        feature_function(network, TRANSFORM, COMPUTE), lambda: read_pieces(path), source, split=split,
        batch_size=batch_size, compute=COMPUTE, shard=shard,
        metadata={"checkpoint_sha256": "a" * 64, "details": {"backbone": "b"}},
    )  # fmt: skip


def cache(path: Path, table: ImageTable, rule: dict) -> CacheFiles:
    name = path.with_name(f"decoded{len(json.dumps(rule))}")
    files = CacheFiles(name.with_suffix(".npy"), name.with_suffix(".parquet"), rule)
    decode_images(table.rows, table.folder, files, workers=2)
    return files


def test_files_and_a_cache_of_their_own_size_give_the_same_embeddings(photos, network):
    table, path = photos
    from_files = open_source(path)
    from_cache = open_source(path, cache(path, table, {}))
    assert isinstance(from_files(table.split("test")), ImageFiles)
    assert isinstance(from_cache(table.split("test")), Images)
    for split in SPLITS:
        torch.testing.assert_close(
            features(network, path, from_cache, split), features(network, path, from_files, split), rtol=0, atol=1e-5
        )


def test_a_cache_of_what_the_transform_squashes_to_gives_them_too(photos, network):
    """No image is smaller than 20 pixels on a side here but for those that stay as they are."""
    table, path = photos
    squashed = features(network, path, open_source(path, cache(path, table, {"exactly": [20, 20]})))
    torch.testing.assert_close(squashed, features(network, path, open_source(path)), rtol=0, atol=1e-5)


def test_embeddings_are_in_table_order_with_their_labels(photos, network, monkeypatch):
    monkeypatch.setattr(images_module, "ROWS_AT_ONCE", 7)  # pieces, and row groups
    table, path = photos
    write_images(path, table)
    assert [len(piece.rows) for piece in read_pieces(path)] == [7] * 8 + [4]
    found = features(network, path, open_source(path), "val")
    rows = table.split("val")
    read = read_embeddings(path.with_name("val.parquet"))
    assert read.image_id == tuple(rows["image_id"])
    assert read.y.tolist() == rows["y"].tolist()
    assert read.attribute.tolist() == rows["attribute"].fillna(-1).tolist()
    one_by_one = []
    for image_path in rows["path"]:
        image = pack([np.asarray(Image.open(Path(table.folder, image_path)).convert("RGB"))])
        with torch.inference_mode():
            one_by_one.append(network.features(prepare(image, TRANSFORM)))
    torch.testing.assert_close(found, torch.cat(one_by_one), rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_is_tried_once_for_all_pieces(photos, network, monkeypatch):
    monkeypatch.setattr(images_module, "ROWS_AT_ONCE", 20)
    table, path = photos
    write_images(path, table)
    whole = features(network, path, open_source(path), batch_size=4)
    compute, tried = network.features, []

    def little_memory(images):
        tried.append(len(images))
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compute(images)

    monkeypatch.setattr(network, "features", little_memory)
    found = features(network, path, open_source(path), batch_size=6)
    torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    assert [n for n in tried if n > 4] == [6]


def test_pieces_are_the_table(photos, monkeypatch):
    monkeypatch.setattr(images_module, "ROWS_AT_ONCE", 7)
    table, path = photos
    joined = pd.concat([piece.rows for piece in read_pieces(path)])
    pd.testing.assert_frame_equal(joined, read_images(path).rows)
    names = read_names(path)
    assert names.rows.empty
    assert (names.class_names, names.folder, names.dataset) == (table.class_names, table.folder, "toy")


def test_image_files_without_a_table(photos, network):
    table, path = photos
    rows = table.split("test")
    paths = [Path(table.folder, p) for p in rows["path"]]
    found = embed_images(network, paths, transform=TRANSFORM, device="cpu")
    torch.testing.assert_close(
        torch.from_numpy(found), features(network, path, open_source(path)), rtol=1e-4, atol=1e-5
    )
    as_mapping = embed_images(network, paths, transform=TRANSFORM.model_dump(mode="json"), device="cpu")
    assert np.array_equal(as_mapping, found)


def test_memory_does_not_grow_with_the_number_of_images():
    """The features alone are 17 and 84 MB."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.throughput", "--side", "8", "--memory", "32768", "163840"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    out = subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True).stdout
    small, large = (float(line.split()[-2]) for line in out.splitlines())
    assert small > 100, "in MB; the libraries alone take more"
    assert large - small < 10
