import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from benchmarks import random_models
from hsfm.data.pixels import pack
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.models import clip
from hsfm.models.backbone import Checkpoint, build_network, read_checkpoint, write_checkpoint

TRANSFORM = {"resize": [32], "crop": [32, 32], "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28],
             "interpolation": "bicubic"}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "clip"
    random_models.write_clip(folder)
    return folder


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def test_features_are_clips_own_projections_of_images_prepared_its_way(folder, picture):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    network = build_network(f"open_clip:{folder}", 2, pretrained=True).eval()
    assert network.n_features == random_models.WIDTH
    theirs = preprocess(Image.fromarray(picture))[None]
    ours = prepare(pack([picture]), TransformSettings(**TRANSFORM))
    # Pillow and torch round bicubic weights differently
    assert (ours - theirs).abs().max() < 0.03
    with torch.inference_mode():
        torch.testing.assert_close(network.features(theirs), model.eval().encode_image(theirs))
        expected = model.encode_image(theirs)
        torch.testing.assert_close(network.features(ours), expected, rtol=0.05, atol=0.02 * float(expected.norm()))
    assert float(expected.norm()) != pytest.approx(1, abs=0.01), "not normalised"


def test_a_checkpoint_is_read_without_the_models_weights(folder, tmp_path):
    network = build_network(f"open_clip:{folder}", 3, pretrained=True)
    fresh = build_network(f"open_clip:{folder}", 3)
    assert not torch.equal(fresh.body.visual.proj, network.body.visual.proj)
    path = tmp_path / "backbone.safetensors"
    write_checkpoint(path, Checkpoint(network, f"open_clip:{folder}", ("a", "b", "c"), {}))
    read = read_checkpoint(path).network
    assert all(torch.equal(a, b) for a, b in zip(network.own_state().values(), read.own_state().values(), strict=True))
    assert all(key.startswith(("visual.", "fc.")) for key in network.own_state())


def test_the_transform_has_to_be_the_models(folder):
    tower = clip.load_model(str(folder), pretrained=False).visual
    assert clip.transform_of(tower) == TRANSFORM
    clip.check_transform(tower, TransformSettings(**TRANSFORM))
    for change in ({"mean": [0.5, 0.5, 0.5]}, {"interpolation": "bilinear"}, {"resize": [32, 32], "crop": None}):
        with pytest.raises(ValueError, match=r"transform: is .*, but this CLIP model was trained on images"):
            clip.check_transform(tower, TransformSettings(**{**TRANSFORM, **change}))


@pytest.mark.parametrize(
    ("name", "resize", "crop", "red"),
    [("ViT-B-32/laion2b_s34b_b79k", [224], [224, 224], 0.48145466), ("ViT-B-16-SigLIP/webli", [224, 224], None, 0.5)],
)
def test_an_architecture_with_a_tag_prepares_images_as_its_weights_want(name, resize, crop, red):
    with torch.device("meta"):
        found = clip.transform_of(clip.load_model(name, pretrained=False, device="meta").visual)
    assert (found["resize"], found["crop"], found["interpolation"]) == (resize, crop, "bicubic")
    assert found["mean"][0] == pytest.approx(red)


def test_what_cannot_be_had_is_said(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("open_clip.factory.download_pretrained", lambda *given, **named: "no file")
    for name, message in (
        ("ViT-B-33", "Model config for 'ViT-B-33' not found"),
        ("ViT-B-32/laion", "Pretrained value 'laion' is not a known tag"),
        ("ViT-B-32", "Required pretrained weights"),
        ("ViT-B-32/openai", "QuickGELU mismatch"),
        ("ViT-B-32/laion2b_s34b_b79k", "no file"),
    ):
        with pytest.raises(ValueError, match=rf"backbone: open_clip:{name}: cannot be loaded \(.*{message}"):
            clip.load_model(name, pretrained=True)
    for content in ((folder / "open_clip_config.json").read_text(), json.dumps({"model_cfg": {}})):  # without weights
        (tmp_path / "open_clip_config.json").write_text(content)
        with pytest.raises(ValueError, match="cannot be loaded"):
            clip.load_model(str(tmp_path), pretrained=True)


def test_zero_shot_is_clips_own(folder, picture):
    prompts = ["a photo of a bird on land", "a photo of a bird on water"]
    shown = prepare(pack([picture, picture[::-1].copy()]), TransformSettings(**TRANSFORM))
    found = clip.ZeroShot(str(folder), prompts, torch.device("cpu"))(shown)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.inference_mode():
        logits, _ = model.get_logits(shown, open_clip.get_tokenizer(f"local-dir:{folder}")(prompts))
    torch.testing.assert_close(found, logits.softmax(-1))
    assert found.sum(1).tolist() == pytest.approx([1, 1])
