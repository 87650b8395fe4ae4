from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from kneed import KneeLocator
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.core.files import write_parquet
from hsfm.data.pixels import pack as pack_pixels
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.methods.dac.find_masks import choose_cut, mask_images, quantiles
from hsfm.methods.dac.heat_maps import heat_maps
from hsfm.methods.dac.masks import Masks, MaskSettings, as_table, pack, read_masks, unpack
from hsfm.models.backbone import build_network

CUTS = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
METADATA = {"dataset": "toy", "split": "train", "source": "heat_map", "cuts": CUTS, "checkpoint_sha256": "a" * 64,
         "transform": TRANSFORM.model_dump(mode="json")}  # fmt: skip


def some_masks(n: int = 10, size: tuple[int, int] = (9, 7), seed: int = 0) -> Masks:
    rng = np.random.default_rng(seed)
    return Masks(
        image_id=tuple(f"image {i}" for i in range(n)),
        packed=pack(torch.from_numpy(rng.random((n, *size)) < 0.3)),
        size=size,
        cuts=pd.DataFrame(
            {
                "cut": rng.choice(CUTS, n).astype(np.float32),
                "knee": rng.random(n) < 0.5,
                "loss": list(rng.random((n, 6)).astype(np.float32)),
            }
        ),
        metadata=METADATA,
    )


@pytest.mark.parametrize(
    ("loss", "fallback", "expected"),
    [
        ([1.0, 0.9, 0.95, 1.0, 2.0, 3.0], 0.8, (3, True)),  # a dip before the bend
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 0.5, (2, False)),  # straight
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.8, (5, False)),  # flat: nothing to divide by
    ],
)
def test_the_cut_is_at_the_knee_or_the_fall_back(loss, fallback, expected):
    assert choose_cut(CUTS, loss, fallback) == expected
    with pytest.raises(ValueError, match=r"loss of a masked image is \[.*inf\] at the cuts"):
        choose_cut(CUTS, [*loss[:5], float("inf")], fallback)


def test_quantiles_are_numpys():
    heat = torch.rand(7, 13, 11, generator=torch.Generator().manual_seed(0))
    heat[0] = 0.5
    heat[1, :6] = 0.0
    expected = np.quantile(heat.numpy(), CUTS, axis=(1, 2))
    np.testing.assert_allclose(quantiles(heat, CUTS).numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (1, 3)])
def test_packing_and_back(size):
    kept = torch.rand(5, *size, generator=torch.Generator().manual_seed(1)) < 0.4
    packed = pack(kept)
    assert packed.shape == (5, -(-size[0] * size[1] // 8))
    assert torch.equal(unpack(packed, size), kept)


@pytest.fixture(scope="module")
def network():
    network = build_network("small_resnet", 2, seed=3).train()
    with torch.no_grad():
        for seed in range(5):
            network(torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return network.eval()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return pack_pixels(list(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)))


def masks_of(network, images, y, batch: int, done=lambda n: None) -> Masks:
    rows = pd.DataFrame({"image_id": [f"i{i}" for i in range(len(y))], "y": y})
    return mask_images(
        network, rows, lambda rows: images[rows.index[0] : rows.index[-1] + 1], METADATA,
        settings=MaskSettings(batch_size=batch), compute=Compute(torch.device("cpu")), done=done,
    )  # fmt: skip


def test_masks_are_made_as_the_paper_says(network, images):
    """One image at a time, step by step."""
    y, counted, sizes = torch.arange(12) % 2, [], []
    handle = network.body.conv1.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    masks = masks_of(network, images, y, 5, counted.append)
    handle.remove()
    assert counted == [5, 5, 2]
    assert sizes == [5] * 7 + [5] * 7 + [2] * 7, "a pass for the heat map, and one for each cut of a whole batch"
    assert masks.image_id == tuple(f"i{i}" for i in range(12))
    assert masks.metadata == METADATA
    kept = unpack(masks.packed, masks.size)
    for i in range(12):
        shown = prepare(images[i : i + 1], TRANSFORM)
        heat_map = heat_maps(network, shown, Compute(torch.device("cpu")))[0].numpy()
        curve = []
        for cut in CUTS:
            mask = torch.from_numpy(heat_map >= np.quantile(heat_map, cut))
            with torch.no_grad():
                curve.append(float(cross_entropy(network(shown * mask), y[i : i + 1])))
        cut, found, loss = masks.cuts.iloc[i]
        np.testing.assert_allclose(loss, curve, atol=1e-4, rtol=1e-4)
        knee = None
        if loss.max() > loss.min():
            knee = KneeLocator(CUTS, loss, S=1.0, curve="convex", direction="increasing", online=True).knee
        assert (cut, found) == (0.8 if knee is None else knee, knee is not None)
        expected = heat_map >= np.quantile(heat_map, 0.8 if knee is None else knee)
        assert (kept[i].numpy() != expected).mean() < 0.01  # rounding at the very quantile
    assert len(set(masks.cuts["cut"])) > 1


def test_masks_do_not_depend_on_the_batches(network, images):
    y = torch.arange(12) % 2
    one, whole, again = (masks_of(network, images, y, batch) for batch in (1, 12, 12))
    np.testing.assert_allclose(np.stack(one.cuts["loss"]), np.stack(whole.cuts["loss"]), atol=1e-4, rtol=1e-4)
    assert (unpack(one.packed, one.size) != unpack(whole.packed, whole.size)).double().mean() < 0.01
    assert torch.equal(again.packed, whole.packed)
    pd.testing.assert_frame_equal(again.cuts, whole.cuts, check_exact=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": [0.3, 0.5, 0.4], "fallback": 0.4}, r"cuts: \[0.3, 0.5, 0.4\] does not rise"),
        ({"fallback": 0.9}, r"fallback: 0.9 is not one of cuts, \[0.3, 0.4, 0.5, 0.6, 0.7, 0.8\]"),
    ],
)
def test_cuts_rise_and_the_fallback_is_one_of_them(change, message):
    with pytest.raises(ValidationError, match=message):
        MaskSettings(**change)


@pytest.mark.parametrize("cut_out", [True, False])
def test_round_trip(tmp_path, cut_out):
    """Masks out of heat maps, and others."""
    masks, path = some_masks(), tmp_path / "masks.parquet"
    masks = masks if cut_out else replace(masks, cuts=None)
    write_parquet(path, as_table(masks), {})
    read = read_masks(path, split="train")
    assert (read.image_id, read.size, read.metadata, read.path) == (masks.image_id, (9, 7), METADATA, str(path))
    assert torch.equal(read.packed, masks.packed)
    some = read.of(["image 7", "image 2"])
    assert some.image_id == ("image 7", "image 2")
    assert torch.equal(some.packed, masks.packed[[7, 2]])
    if cut_out:
        pd.testing.assert_frame_equal(read.cuts, masks.cuts)
        pd.testing.assert_frame_equal(some.cuts, masks.cuts.iloc[[7, 2]].reset_index(drop=True))
    else:
        assert read.cuts is None


def test_masks_of_other_images_or_another_network_are_named(tmp_path):
    path = tmp_path / "masks.parquet"
    write_parquet(path, as_table(some_masks()), {})
    read = read_masks(path)
    with pytest.raises(ValueError, match=r"masks.parquet: no mask of image 'image 99'"):
        read.of(["image 1", "image 99"])
    read.require(checkpoint_sha256="a" * 64, transform=METADATA["transform"])
    with pytest.raises(ValueError, match=r"masks.parquet: masks are for transform .*, expected .*\[9, 7\]"):
        read.require(transform={**METADATA["transform"], "crop": [9, 7]})
    with pytest.raises(ValueError, match=r"masks.parquet: masks are for checkpoint_sha256 a+, expected b"):
        read.require(checkpoint_sha256="b")
    with pytest.raises(ValueError, match=r"masks.parquet: holds the train split, expected val"):
        read_masks(path, split="val")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"masks.parquet: not a readable Parquet file"):
        read_masks(path)
