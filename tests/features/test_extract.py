"""From an image table to embeddings: every source of pixels, any number of images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.core.device import Compute
from hsfm.data.open_images import open_source
from hsfm.data.pixels import ImageFiles, Images, pack
from hsfm.data.store import decode_images
from hsfm.data.table import SPLITS, ImageTable, complete, read_images, write_images
from hsfm.data.transforms import TransformSettings, normalize, prepare
from hsfm.features.embeddings import Embeddings
from hsfm.features.extract import embed_images, embed_table, feature_function, stream
from hsfm.heads.head import Head
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


def embed(network, path: Path, source, split="test", early_logits=None) -> Embeddings:
    features, named = feature_function(network, TRANSFORM, COMPUTE), {"metadata": {"details": {"a": 1}}}
    named |= {"split": split, "batch_size": 7, "compute": COMPUTE, "early_logits": early_logits}
    return embed_table(features, read_images(path), source, **named)


def test_early_logits_of_other_images_are_refused(photos, network):
    table, path = photos
    n = len(table.split("val"))
    with pytest.raises(ValueError, match=f"early logits are of {n - 1} images, but validation of toy has {n}"):
        embed(network, path, open_source(path), "val", torch.zeros(n - 1, 2))


def features(*arguments) -> torch.Tensor:
    return embed(*arguments).features


def cache(path: Path, table: ImageTable, rule: dict) -> tuple[Path, Path]:
    files = path.with_name("decoded.npy"), path.with_name("decoded.parquet")
    decode_images(table.rows, table.folder, *files, rule, workers=2)
    return files


@pytest.mark.parametrize("rule", [{}, {"exactly": [20, 20]}])
def test_files_and_caches_of_their_pixels_give_the_same_embeddings(photos, network, rule):
    """Of their own size, or of what the transform squashes to; no image is smaller than that."""
    table, path = photos
    from_files, from_cache = open_source(path), open_source(path, cache(path, table, rule))
    assert isinstance(from_files(table.split("test")), ImageFiles)
    assert isinstance(from_cache(table.split("test")), Images)
    for split in SPLITS:
        of_cache, of_files = (features(network, path, source, split) for source in (from_cache, from_files))
        torch.testing.assert_close(of_cache, of_files, rtol=0, atol=1e-5)


def test_embeddings_are_in_table_order_with_their_labels(photos, network):
    table, path = photos
    found, rows = embed(network, path, open_source(path), "val"), table.split("val")
    assert found.image_id == tuple(rows["image_id"])
    assert found.y.tolist() == rows["y"].tolist()
    assert found.attribute.tolist() == rows["attribute"].fillna(-1).tolist()
    assert (found.dataset, found.split, found.details) == ("toy", "val", {"a": 1})
    one_by_one = []
    for image_path in rows["path"]:
        image = pack([np.asarray(Image.open(Path(table.folder, image_path)).convert("RGB"))])
        with torch.inference_mode():
            one_by_one.append(network.features(prepare(image, TRANSFORM)))
    torch.testing.assert_close(found.features, torch.cat(one_by_one), rtol=1e-4, atol=1e-5)


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


def test_one_path_is_no_list_of_paths(network):
    with pytest.raises(ValueError, match=r"paths: is one path, expected a list of them, \['a.png'\]"):
        embed_images(network, "a.png", transform=TRANSFORM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [124, 0, 0]}, "transform/mean/0: Input should be less than or equal to 1"),
        ({"std": []}, "transform/std/0: "),
    ],
)
def test_a_mistake_in_a_mapping_is_one_line(network, change, message):
    with pytest.raises(ValueError, match=f"^{message}.*$") as raised:
        embed_images(network, ["a.png"], transform=TRANSFORM.model_dump() | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("mean", "noted"), [(0.5, False), (120.0, True)])
def test_features_that_hardly_differ_are_noted(photos, network, caplog, mean, noted):
    table, _ = photos
    settings = TRANSFORM.model_copy(update={"mean": (mean,) * 3, "std": (max(mean / 2, 0.25),) * 3})
    embed_images(network, [Path(table.folder, path) for path in table.rows["path"]], transform=settings, device="cpu")
    assert ("the features of different images hardly differ" in caplog.text) == noted


def streamed(features, batches):
    return list(stream(features, batches, COMPUTE))


def test_features_and_logits_do_not_depend_on_the_batch_size():
    network = build_network("small_resnet", 3, seed=0)
    images = torch.randint(0, 256, (23, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    network.train()(normalize(images, [0.5] * 3, [0.5] * 3))  # running statistics that are not the initial ones
    network.eval()

    def features(batch):
        return network.features(normalize(batch, [0.5] * 3, [0.5] * 3))

    whole = torch.cat(streamed(features, [images]))
    assert whole.shape == (23, 128)
    for size in (1, 7, 22):
        torch.testing.assert_close(torch.cat(streamed(features, images.split(size))), whole, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        logits = network(normalize(images, [0.5] * 3, [0.5] * 3))
    head = Head(network.fc.weight.detach(), network.fc.bias.detach())
    torch.testing.assert_close(head.logits(whole), logits, rtol=1e-4, atol=1e-5)
