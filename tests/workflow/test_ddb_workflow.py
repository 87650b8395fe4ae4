"""DDB through Snakemake: cut and paste on a few drawn images, and diffusion on tiny random models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from benchmarks import random_models
from hsfm.core.files import read_safetensors
from hsfm.data.pixels import read_packed
from hsfm.data.table import read_images
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.dac.masks import read_masks, unpack
from hsfm.methods.ddb.generated import GENERATED, NOTHING_FOUND, OBJECTS, PRUNED, read_png, read_table
from hsfm.models.backbone import read_checkpoint
from tests.repository import RUN, python, rules_planned, snakemake

THRESHOLD = 0.55  # of the attribution; some of the few images lie above it, some below
SMALL = {
    "sources_per_class": 6,
    "images_per_source": 2,
    "prune": {"attribution": THRESHOLD, "steps": 4, "batch_size": 7},
    "retrain": {"weights": [6, 10], "batch_size": 16, "epochs": 2},
}
ROWS = 2 * 6 * 2
PRUNING = {"prune_generated", "draw_figures", "fit_ddb", "extract_embeddings"}
SCORING = {"score_heads", "make_tables", "draw_scores", "write_report"}
MAIN = "results/tables/main.md"
FIGURE = "results/figures/minibirds/generated.png"


def overlay(folder: Path, name: str, **ddb) -> list[str]:
    """config/ddb.yaml on a few images, with further settings of DDB."""
    seeds = [0] if ddb.get("generator") == "diffusion" else [0, 1]
    config = {"seeds": seeds, "methods": ["erm", "ddb"], "settings": {"minibirds": {"ddb": {**SMALL, **ddb}}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "config/minimal.yaml", "config/ddb.yaml", f"{name}.yaml", "--"]


def planned(folder: Path, arguments: list[str]) -> set[str]:
    return rules_planned(folder, *arguments[:-1])


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {
        name: read_table(folder / RUN / f"ddb/{name}.parquet", schema)[0]
        for name, schema in (("objects", OBJECTS), ("generated", GENERATED), ("pruned", PRUNED))
    }


@pytest.fixture(scope="module")
def pasted(finished) -> Path:
    """A copy in which DDB has run by cut and paste, and a model was exported. Tests put back what they change."""
    snakemake(finished, *overlay(finished, "small"), MAIN, FIGURE, f"{RUN}/ddb/model_seed1.safetensors")
    return finished


def test_every_image_is_accounted_for_and_nothing_is_left_to_do(pasted):
    assert planned(pasted, overlay(pasted, "small")) <= SCORING
    assert (pasted / FIGURE).is_file()
    generated, pruned = (tables(pasted)[name] for name in ("generated", "pruned"))
    assert len(generated) == len(pruned) == ROWS
    assert generated["image_id"].tolist() == pruned["image_id"].tolist()
    assert pruned["kept"].tolist() == pruned["why_not"].isna().tolist()
    assert 0 < pruned["kept"].sum() < ROWS
    assert (pruned["y"] != pruned["source_y"]).all()
    assert pruned.groupby("y").size().tolist() == [ROWS // 2, ROWS // 2]
    rule = (pruned["attribution"] > THRESHOLD) & (pruned["probability"] < pruned["limit"])
    assert rule.tolist() == pruned["kept"].tolist()
    assert pruned["token"].isna().all()


def test_a_generated_image_is_the_donors_bird_in_the_sources_scene(pasted):
    rows = read_images(pasted / "results/minibirds/images.parquet").split("train").set_index("image_id", drop=False)
    masks = read_masks(pasted / RUN / "erm/masks/dataset/train.parquet")
    for made in tables(pasted)["generated"].head(5).itertuples():
        both = read_packed(rows.loc[[made.source_id, made.donor_id]], pasted / "results/minibirds").stacked()
        source, donor = both.permute(0, 2, 3, 1).numpy()
        image, mask = read_png(made.image), read_png(made.mask)
        old, bird = unpack(masks.of([made.source_id, made.donor_id]).packed, masks.size).numpy()
        assert rows.loc[made.donor_id, "y"] == made.y
        assert made.mask_area == pytest.approx(mask.mean())
        # the same pixels at another place
        np.testing.assert_array_equal(np.sort(image[mask], 0), np.sort(donor[bird], 0))
        far = ~mask & ~old
        far &= ~np.roll(old, 1, 0) & ~np.roll(old, -1, 0) & ~np.roll(old, 1, 1) & ~np.roll(old, -1, 1)
        np.testing.assert_array_equal(image[far], source[far])


def test_scores_are_those_of_the_retrained_networks(pasted):
    scores = pd.read_parquet(pasted / RUN / "ddb/scores.parquet")
    assert {*zip(scores["method"], scores["group_labels"], strict=True)} == {("ddb_cut_paste", "selection")}
    images = read_packed(read_images(pasted / "results/minibirds/images.parquet").split("test"),
                         pasted / "results/minibirds").stacked()  # fmt: skip
    for seed in (0, 1):
        folder = pasted / RUN / f"ddb/seed{seed}"
        test = read_embeddings(folder / "embeddings/test.parquet", split="test")
        read_heads(folder / "heads.safetensors").check_fits(test, "test.parquet")
        network = read_checkpoint(folder / "backbone.safetensors").network.eval()
        with torch.no_grad():
            correct = network(images.float() / 127.5 - 1).argmax(1) == test.y
        part = scores[(scores["split"] == "test") & (scores["seed"] == seed)]
        assert part["correct"].tolist() == [int(correct[test.group == g].sum()) for g in range(4)]
    erm = read_checkpoint(pasted / RUN / "erm/backbone.safetensors").network
    assert not torch.equal(network.body.conv1.weight, erm.body.conv1.weight), "the whole network has moved"
    exported = read_checkpoint(pasted / RUN / "ddb/model_seed1.safetensors").network
    assert torch.equal(exported.fc.weight, network.fc.weight)
    assert torch.equal(exported.body.conv1.weight, network.body.conv1.weight)
    text = (pasted / MAIN).read_text()
    assert "| DDB, cut and paste | val, to select |" in text
    assert "DDB, cut and paste: objects cut out along the masks that the dataset knows (run 0 seed 0," in text


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({"retrain": {**SMALL["retrain"], "lr": 0.002}}, {"fit_ddb", "extract_embeddings"}),
        ({"prune": {**SMALL["prune"], "attribution": 0.2}}, PRUNING),
        ({"seed": 1}, {"paste_objects", *PRUNING}),
        ({"sources_per_class": 5}, {"choose_sources", "take_objects", "paste_objects", *PRUNING}),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows(pasted, change, jobs):
    assert planned(pasted, overlay(pasted, "changed", **change)) == {*jobs, *SCORING}


HIDING = """
import importlib.util, sys
hidden = ("accelerate", "captum", "cv2", "diffusers", "open_clip", "transformers")
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)
for name in list(sys.modules):
    if name.split(".")[0] in hidden:
        del sys.modules[name]
sys.modules.update(dict.fromkeys(hidden))
"""
MISSING = "accelerate, captum, diffusers, open-clip-torch, opencv-python-headless, transformers"
INSTALL = f'pip install -e ".[diffusion]" (missing: {MISSING})'


@pytest.fixture
def without_extra(tmp_path) -> Path:
    """A program that hides the packages of the extra."""
    (tmp_path / "hiding.py").write_text(HIDING)
    return tmp_path / "hiding.py"


def test_without_the_extra_the_row_is_left_out_and_asking_for_it_says_what_to_install(copied, without_extra):
    arguments = overlay(copied, "small")
    out = snakemake(copied, *arguments, MAIN, before=without_extra).stdout
    assert f"DDB is left out: {INSTALL}" in out
    assert "DDB" not in (copied / MAIN).read_text()
    out = snakemake(copied, "-n", *arguments, f"{RUN}/ddb/heads.safetensors", check=False, before=without_extra).stdout
    assert f"DDB was asked for: {INSTALL}" in out


def test_nothing_but_diffusion_imports_the_extra(finished, without_extra):
    names = [".".join(path.relative_to(finished).with_suffix("").parts) for path in (finished / "hsfm").rglob("*.py")]
    core = sorted(name for name in names if "__" not in name)
    imports = "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in core)
    python(finished, "-c", imports, before=without_extra)
    loading = "import hsfm.methods.ddb.diffusion_models as m; m.libraries()"
    assert 'pip install -e ".[diffusion]"' in python(finished, "-c", loading, check=False, before=without_extra).stdout


@pytest.fixture(scope="module")
def inpainted(pasted, diffusion) -> Path:
    """The copy in which DDB has run by diffusion too, from the same ERM network, inpainting in two shards."""
    arguments = overlay(pasted, "tiny", **diffusion)
    assert planned(pasted, arguments) == {"learn_token", "segment_objects", "inpaint_objects", *PRUNING, *SCORING}
    (pasted / "shards.yaml").write_text("shards: {generation: 2}")
    snakemake(pasted, *arguments[:-1], "shards.yaml", "--", f"{RUN}/ddb/scores.parquet", MAIN, FIGURE)
    return pasted


def test_the_chain_accounts_for_everything_and_knows_its_models(inpainted, diffusion):
    found = tables(inpainted)
    pruned = found["pruned"]
    assert len(pruned) == ROWS
    assert set(pruned["token"]) == {"<land-bird>", "<water-bird>"}
    assert pruned["donor_id"].isna().all()
    for made in found["generated"].itertuples():
        assert read_png(made.image).shape == (32, 32, 3)
        assert read_png(made.mask).mean() == pytest.approx(made.mask_area)
    heads = read_heads(inpainted / RUN / "ddb/seed0/heads.safetensors")
    assert heads.method == "ddb"
    assert set(heads.settings["models"]) == {"detector", "segmenter", "text_to_image", "inpainting"}
    assert all(model["commit"].startswith("folder ") for model in heads.settings["models"].values())
    tensors, metadata = read_safetensors(inpainted / "results/minibirds/tokens/class1.safetensors")
    assert (metadata["token"], tensors["embedding"].shape) == ("<water-bird>", (random_models.WIDTH,))
    assert "| DDB | " in (inpainted / MAIN).read_text()


def test_where_nothing_is_found_the_row_is_erms_and_says_so(inpainted, diffusion):
    nothing = {**diffusion, "segment": {**diffusion["segment"], "box_threshold": 1.0}}
    snakemake(inpainted, *overlay(inpainted, "tiny", **nothing), f"{RUN}/ddb/scores.parquet", MAIN, FIGURE)
    found = tables(inpainted)
    assert found["objects"]["boxes"].tolist() == [0] * 12
    assert found["pruned"]["why_not"].tolist() == [NOTHING_FOUND] * ROWS
    both = {method: pd.read_parquet(inpainted / RUN / f"{method}/scores.parquet") for method in ("erm", "ddb")}
    assert both["ddb"]["correct"].tolist() == both["erm"]["correct"].tolist()
    assert both["ddb"]["group_labels"].unique().tolist() == ["none"]
    erm = read_checkpoint(inpainted / RUN / "erm/backbone.safetensors").network
    network = read_checkpoint(inpainted / RUN / "ddb/seed0/backbone.safetensors").network
    assert all(torch.equal(a, b) for a, b in zip(erm.own_state().values(), network.own_state().values(), strict=True))
    assert "no generated image was kept, so that this is ERM's own network and head" in (inpainted / MAIN).read_text()
    assert (inpainted / FIGURE).read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_said_before_anything_runs(finished, diffusion):
    wrong = {"text_to_image": {"name": "/no/such/folder", "revision": None}}
    changes = {"models": {**diffusion["models"], **wrong}, "retrain": {"weights": [1, 2, 3]}}
    arguments = overlay(finished, "tiny", **{**diffusion, **changes})
    out = snakemake(finished, *arguments[:-1], "--dry-run", check=False).stdout
    for line in (
        "ddb/retrain/weights: 3 numbers, but the dataset has 2 classes; give one for each",
        "ddb/models/text_to_image/name: no folder /no/such/folder",
    ):
        assert f"settings/minibirds/{line}" in out
