"""DDB through Snakemake: cut and paste on a few drawn images, and diffusion on tiny random models."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from benchmarks import random_models
from hsfm.core.files import read_safetensors
from hsfm.data.pixels import read_packed
from hsfm.data.table import read_images
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.dac.masks import read_masks, unpack
from hsfm.methods.ddb.generated import GENERATED, NOTHING_FOUND, OBJECTS, PRUNED, read_png, read_table
from hsfm.models.backbone import read_checkpoint
from tests.repository import RUN, python, results, rules_planned, snakemake

THRESHOLD = 0.55  # of the attribution; some of the few images lie above it, some below
SMALL = {
    "sources_per_class": 6,
    "images_per_source": 2,
    "prune": {"attribution": THRESHOLD, "steps": 4, "batch_size": 7},
    "retrain": {"weights": [6, 10], "batch_size": 16, "epochs": 2},
}
ROWS = 2 * 6 * 2
PRUNING = {"prune_generated", "draw_generated", "fit_ddb", "extract_embeddings"}
SCORING = {"score_heads", "make_tables", "draw_figure", "draw_scores", "describe_results", "save_config",
           "write_report"}  # fmt: skip
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
    snakemake(finished, *overlay(finished, "small"), "all", f"{RUN}/ddb/model_seed1.safetensors")
    return finished


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    """Settings of DDB by diffusion with tiny models."""
    found = random_models.write_all(tmp_path_factory.mktemp("models"))
    how = {"local_files_only": True, "precision": "auto", "attention_slicing": False, "cpu_offload": False}
    return {
        "generator": "diffusion",
        "models": {**{name: {"name": path, "revision": None} for name, path in found.items()}, **how},
        "token": {"images": 4, "size": [16, 16], "initial_word": "bird", "steps": 4, "batch_size": 1,
                  "accumulation": 2, "lr": 0.01, "seed": 0},
        "segment": {"prompt": "bird.", "box_threshold": 0.3, "text_threshold": 0.25, "batch_size": 4},
        "inpaint": {"prompt": "a photo of a {token} bird", "size": [32, 32], "steps": 2, "guidance": 7.5,
                    "batch_size": 1},
    }  # fmt: skip


# Cut and paste --------------------------------------------------------------------------------------------------------


def test_its_files_are_there_and_nothing_is_left_to_do(pasted):
    files = {path for path in results(pasted) if "/ddb/" in path or "generated" in path or "masks/dataset" in path}
    seeds = ("backbone.safetensors", "heads.safetensors", "history.parquet", "standardization.safetensors",
             *(f"embeddings/{split}.parquet" for split in ("train", "val", "test")))  # fmt: skip
    steps = ("sources", "objects", "generated", "pruned", "scores", "predictions")
    assert files == {
        *(f"{RUN}/ddb/{name}.parquet" for name in steps),
        *(f"{RUN}/ddb/seed{seed}/{name}" for seed in (0, 1) for name in seeds),
        *(FIGURE, FIGURE.replace("png", "pdf"), f"{RUN}/ddb/model_seed1.safetensors"),
        f"{RUN}/erm/masks/dataset/train.parquet",
    }
    assert planned(pasted, overlay(pasted, "small")) == set()


def test_every_image_is_accounted_for(pasted):
    found = tables(pasted)
    generated, pruned = found["generated"], found["pruned"]
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
    assert scores["method"].unique().tolist() == ["ddb_cut_paste"]
    assert scores["group_labels"].unique().tolist() == ["selection"]
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
    note = "DDB, cut and paste: objects cut out along the masks that the dataset knows (run 0 seed 0, run 0 seed 1)."
    assert note in text


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


def test_objects_out_of_heat_maps(copied):
    arguments = overlay(copied, "small", cut_paste={"masks": "heat_map"})
    snakemake(copied, *arguments, f"{RUN}/ddb/objects.parquet")
    objects, _ = read_table(copied / RUN / "ddb/objects.parquet", OBJECTS)
    masks = read_masks(copied / RUN / "erm/masks/heat_map/train.parquet").of(objects["image_id"].tolist())
    expected = unpack(masks.packed, masks.size).numpy()
    np.testing.assert_array_equal(np.stack([read_png(mask) for mask in objects["mask"]]), expected)


# Without the extra ----------------------------------------------------------------------------------------------------

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
ERASING = """
from hsfm.methods.ddb.cut_paste import erase; import numpy as np
erase(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), margin=1, radius=1)
"""


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
    for target in ("scores.parquet", "seed0/heads.safetensors"):
        done = snakemake(copied, "-n", *arguments, f"{RUN}/ddb/{target}", check=False, before=without_extra)
        assert done.returncode != 0
        assert f"DDB was asked for: {INSTALL}" in done.stdout


def test_nothing_but_diffusion_imports_the_extra(finished, without_extra):
    names = [".".join(path.relative_to(finished).with_suffix("").parts) for path in (finished / "hsfm").rglob("*.py")]
    core = sorted(name for name in names if "__" not in name)
    imports = "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in core)
    python(finished, "-c", imports, before=without_extra)
    loading = "import hsfm.methods.ddb.diffusion_models as m; m.libraries()"
    for program, package in ((ERASING, "OpenCV"), (loading, "the extra")):
        said = python(finished, "-c", program, check=False, before=without_extra).stdout
        assert package in said
        assert 'pip install -e ".[diffusion]"' in said


# Diffusion ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inpainted(pasted, models) -> Path:
    """The copy in which DDB has run by diffusion too, from the same ERM network, inpainting in two shards."""
    arguments = overlay(pasted, "tiny", **models)
    assert planned(pasted, arguments) == {"learn_token", "segment_objects", "inpaint_objects", *PRUNING, *SCORING}
    (pasted / "shards.yaml").write_text("shards: {generation: 2}")
    snakemake(pasted, *arguments[:-1], "shards.yaml", "--", f"{RUN}/ddb/scores.parquet", MAIN, FIGURE)
    return pasted


def test_the_chain_accounts_for_everything_and_knows_its_models(inpainted, models):
    found = tables(inpainted)
    pruned = found["pruned"]
    assert len(pruned) == ROWS
    assert set(pruned["token"]) == {"<land-bird>", "<water-bird>"}
    assert found["generated"]["image"].notna().all()
    assert pruned["donor_id"].isna().all()
    for made in found["generated"].itertuples():
        assert read_png(made.image).shape == (32, 32, 3)
        assert read_png(made.mask).mean() == pytest.approx(made.mask_area)
    heads = read_heads(inpainted / RUN / "ddb/seed0/heads.safetensors")
    assert heads.method == "ddb"
    assert set(heads.settings["models"]) == {"detector", "segmenter", "text_to_image", "inpainting"}
    assert all(model["commit"].startswith("folder ") for model in heads.settings["models"].values())
    tensors, metadata = read_safetensors(inpainted / "results/minibirds/tokens/class1.safetensors")
    assert metadata["token"] == "<water-bird>"
    assert tensors["embedding"].shape == (random_models.WIDTH,)
    assert len(pq.read_table(inpainted / "results/minibirds/tokens/class1.parquet")) == 4
    assert "| DDB | " in (inpainted / MAIN).read_text()
    with Image.open(inpainted / FIGURE) as sheet:
        assert sheet.width > 500


def test_shards_inpaint_the_same_bytes(inpainted, models):
    target = inpainted / RUN / "ddb/generated.parquet"
    sharded = target.read_bytes()
    arguments = [*overlay(inpainted, "tiny", **models), str(target.relative_to(inpainted))]
    snakemake(inpainted, "--forcerun", "inpaint_objects", *arguments)
    assert target.read_bytes() == sharded


def test_where_nothing_is_found_the_row_is_erms_and_says_so(inpainted, models):
    nothing = {**models, "segment": {**models["segment"], "box_threshold": 1.0}}
    snakemake(inpainted, *overlay(inpainted, "tiny", **nothing), f"{RUN}/ddb/scores.parquet", MAIN, FIGURE)
    found = tables(inpainted)
    assert found["objects"]["mask"].isna().all()
    assert found["objects"]["boxes"].tolist() == [0] * 12
    assert found["pruned"]["why_not"].unique().tolist() == [NOTHING_FOUND]
    assert found["pruned"]["attribution"].isna().all()
    assert len(found["pruned"]) == ROWS
    both = {method: pd.read_parquet(inpainted / RUN / f"{method}/scores.parquet") for method in ("erm", "ddb")}
    assert both["ddb"]["correct"].tolist() == both["erm"]["correct"].tolist()
    assert both["ddb"]["group_labels"].unique().tolist() == ["none"]
    erm = read_checkpoint(inpainted / RUN / "erm/backbone.safetensors").network
    network = read_checkpoint(inpainted / RUN / "ddb/seed0/backbone.safetensors").network
    assert all(torch.equal(a, b) for a, b in zip(erm.own_state().values(), network.own_state().values(), strict=True))
    assert pq.read_table(inpainted / RUN / "ddb/seed0/history.parquet").num_rows == 0
    note = "no generated image was kept, so that this is ERM's own network and head"
    assert note in (inpainted / MAIN).read_text()
    assert (inpainted / FIGURE).read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_said_before_anything_runs(finished, models):
    wrong = {
        "text_to_image": {"name": "/no/such/folder", "revision": None},
        "precision": "float16",
    }
    changes = {"models": {**models["models"], **wrong}, "retrain": {"weights": [1, 2, 3]}}
    arguments = overlay(finished, "tiny", **{**models, **changes, "segment": {**models["segment"], "prompt": "Bird"}})
    out = snakemake(finished, "--config", "device=cpu", *arguments[:-1], "--dry-run", check=False).stdout
    assert "settings/minibirds/ddb/segment/prompt: String should match pattern '^[a-z][a-z .-]*[.]$', got Bird" in out
    arguments = overlay(finished, "tiny", **{**models, **changes})
    out = snakemake(finished, "--config", "device=cpu", *arguments[:-1], "--dry-run", check=False).stdout
    for line in (
        "ddb/retrain/weights: 3 numbers, but the dataset has 2 classes; give one for each",
        "ddb/models/precision: float16 was asked for, which the CPU has not; set it to auto",
        "ddb/models/text_to_image/name: no folder /no/such/folder",
    ):
        assert f"settings/minibirds/{line}" in out
    config = yaml.safe_load((finished / "tiny.yaml").read_text())
    del config["settings"]["minibirds"]["ddb"]["token"]
    (finished / "tiny.yaml").write_text(yaml.safe_dump(config))
    out = snakemake(finished, *arguments[:-1], "--dry-run", check=False).stdout
    assert "settings/minibirds/ddb: missing 'token', which the generator diffusion needs" in out


def test_a_model_that_is_not_there_is_one_line(copied, models):
    absent = {**models["models"], "text_to_image": {"name": "nobody/nothing", "revision": None}}
    arguments = overlay(copied, "tiny", **{**models, "models": absent})
    done = snakemake(copied, *arguments, "results/minibirds/tokens/class0.safetensors", check=False)
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert error.startswith("ERROR: model nobody/nothing: neither a folder nor found among what was downloaded before")
