"""DDB through Snakemake: cut and paste on a few drawn images, and diffusion on tiny random models."""

import shutil
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
from tests.repository import RUN, copy_repository, planned_by, results, run_python, snakemake

THRESHOLD = 0.55  # of the attribution; some of the few images lie above it, some below
SMALL = {
    "sources_per_class": 6,
    "images_per_source": 2,
    "prune": {"attribution": THRESHOLD, "steps": 4, "batch_size": 7},
    "retrain": {"weights": [6, 10], "batch_size": 16, "epochs": 2},
}
ROWS = 2 * 6 * 2
PRUNING = {"prune_generated": 1, "draw_generated": 1, "fit_ddb": 2, "extract_embeddings": 2}
SCORING = {
    "score_heads": 1, "make_tables": 1, "draw_figure": 1, "draw_scores": 1, "describe_results": 1, "save_config": 1,
    "write_report": 1,
}  # fmt: skip


def overlay(folder: Path, name: str, **ddb) -> list[str]:
    """config/ddb.yaml on a few images, with further settings of DDB."""
    seeds = [0] if ddb.get("generator") == "diffusion" else [0, 1]
    config = {"seeds": seeds, "methods": ["erm", "ddb"], "settings": {"minibirds": {"ddb": {**SMALL, **ddb}}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "config/minimal.yaml", "config/ddb.yaml", f"{name}.yaml", "--"]


def planned(folder: Path, arguments: list[str]) -> dict[str, int]:
    return planned_by(folder, *arguments[:-1])


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {
        name: read_table(folder / RUN / f"ddb/{name}.parquet", schema)[0]
        for name, schema in (("objects", OBJECTS), ("generated", GENERATED), ("pruned", PRUNED))
    }


@pytest.fixture(scope="module")
def pasted(tmp_path_factory) -> Path:
    """A copy in which DDB has run by cut and paste. Tests that change it put everything back."""
    folder = copy_repository(tmp_path_factory.mktemp("pasted") / "hsfm")
    snakemake(folder, *overlay(folder, "small"), "all")
    return folder


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


@pytest.fixture(scope="module")
def inpainted(pasted, models, tmp_path_factory) -> Path:
    """A copy in which DDB has run by diffusion, from the same ERM network."""
    folder = tmp_path_factory.mktemp("inpainted") / "hsfm"
    shutil.copytree(pasted, folder)
    arguments = overlay(folder, "tiny", **models)
    assert planned(folder, arguments) == {
        "learn_token": 2, "segment_objects": 1, "inpaint_objects": 1, **PRUNING, **SCORING,
        "fit_ddb": 1, "extract_embeddings": 1,
    }  # fmt: skip
    snakemake(folder, *arguments, "all")
    assert planned(folder, arguments) == {}
    return folder


# Cut and paste --------------------------------------------------------------------------------------------------------


def test_its_files_are_there_and_nothing_is_left_to_do(pasted):
    files = {path for path in results(pasted) if "/ddb/" in path or "generated" in path or "masks" in path}
    seeds = ("backbone.safetensors", "heads.safetensors", "history.parquet", "standardization.safetensors",
             *(f"embeddings/{split}.parquet" for split in ("train", "val", "test")))  # fmt: skip
    assert files == {
        *(
            f"{RUN}/ddb/{name}.parquet"
            for name in ("sources", "objects", "generated", "pruned", "scores", "predictions")
        ),
        *(f"{RUN}/ddb/seed{seed}/{name}" for seed in (0, 1) for name in seeds),
        *(f"results/figures/minibirds/generated.{suffix}" for suffix in ("png", "pdf")),
        f"{RUN}/erm/masks/dataset/train.parquet",
    }
    assert planned(pasted, overlay(pasted, "small")) == {}
    for log in (pasted / "logs").rglob("*.log"):
        assert "Traceback" not in log.read_text()


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
    text = (pasted / "results/tables/main.md").read_text()
    assert "| DDB, cut and paste | val, to select |" in text
    assert (
        "DDB, cut and paste: objects cut out along the masks that the dataset knows (run 0 seed 0, run 0 seed 1)."
        in text
    )


@pytest.mark.parametrize(
    ("change", "jobs"),
    [
        ({"retrain": {**SMALL["retrain"], "lr": 0.002}}, {"fit_ddb": 2, "extract_embeddings": 2, **SCORING}),
        ({"prune": {**SMALL["prune"], "attribution": 0.2}}, {**PRUNING, **SCORING}),
        ({"seed": 1}, {"paste_objects": 1, **PRUNING, **SCORING}),
        ({"cut_paste": {"masks": "heat_map"}},
         {"make_masks": 1, "take_objects": 1, "paste_objects": 1, **PRUNING, **SCORING}),
        ({"sources_per_class": 5}, {"choose_sources": 1, "take_objects": 1, "paste_objects": 1, **PRUNING, **SCORING}),
    ],
)  # fmt: skip
def test_a_changed_setting_reruns_its_stage_and_what_follows(pasted, change, jobs):
    assert planned(pasted, overlay(pasted, "changed", **change)) == jobs


def test_objects_out_of_heat_maps(pasted, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(pasted, folder)
    snakemake(folder, *overlay(folder, "small", cut_paste={"masks": "heat_map"}), f"{RUN}/ddb/seed0/heads.safetensors")
    objects = tables(folder)["objects"]
    masks = read_masks(folder / RUN / "erm/masks/heat_map/train.parquet").of(objects["image_id"].tolist())
    expected = unpack(masks.packed, masks.size).numpy()
    np.testing.assert_array_equal(np.stack([read_png(mask) for mask in objects["mask"]]), expected)
    (remark,) = read_heads(folder / RUN / "ddb/seed0/heads.safetensors").remarks
    assert remark == "objects cut out by the heat maps of ERM's network"


def test_where_nothing_is_kept_the_row_is_erms_and_says_so(pasted, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(pasted, folder)
    snakemake(folder, *overlay(folder, "small", prune={**SMALL["prune"], "attribution": 1.0}), "all")
    pruned = tables(folder)["pruned"]
    assert not pruned["kept"].any()
    assert pruned["why_not"].str.startswith("attribution on the object not above 1").all()
    both = {method: pd.read_parquet(folder / RUN / f"{method}/scores.parquet") for method in ("erm", "ddb")}
    for _, part in both["ddb"].groupby("seed"):
        assert part["correct"].tolist() == both["erm"]["correct"].tolist()
    assert both["ddb"]["group_labels"].unique().tolist() == ["none"]
    erm = read_checkpoint(folder / RUN / "erm/backbone.safetensors").network
    network = read_checkpoint(folder / RUN / "ddb/seed0/backbone.safetensors").network
    assert all(torch.equal(a, b) for a, b in zip(erm.own_state().values(), network.own_state().values(), strict=True))
    assert pq.read_table(folder / RUN / "ddb/seed0/history.parquet").num_rows == 0
    assert (
        "no generated image was kept, so that this is ERM's own network and head"
        in (folder / "results/tables/main.md").read_text()
    )


def test_a_model_is_exported(pasted, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(pasted, folder)
    model = RUN / "ddb/model_seed1.safetensors"
    snakemake(folder, *overlay(folder, "small"), str(model))
    exported = read_checkpoint(folder / model)
    own = read_checkpoint(folder / RUN / "ddb/seed1/backbone.safetensors").network
    assert torch.equal(exported.network.fc.weight, own.fc.weight)
    assert torch.equal(exported.network.body.conv1.weight, own.body.conv1.weight)


# Diffusion ------------------------------------------------------------------------------------------------------------


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
    assert "| DDB | " in (inpainted / "results/tables/main.md").read_text()
    with Image.open(inpainted / "results/figures/minibirds/generated.png") as sheet:
        assert sheet.width > 500


def test_pictures_do_not_depend_on_batches(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    arguments = overlay(folder, "tiny", **{**models, "inpaint": {**models["inpaint"], "batch_size": 5}})
    snakemake(folder, *arguments, f"{RUN}/ddb/generated.parquet")
    ours, theirs = tables(folder)["generated"], tables(inpainted)["generated"]
    assert ours["image_id"].tolist() == theirs["image_id"].tolist()
    for a, b in zip(ours["image"], theirs["image"], strict=True):
        assert abs(read_png(a).astype(int) - read_png(b)).max() <= 1, "but for rounding"


def test_a_killed_inpainting_goes_on_after_its_last_part(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    script = folder / "workflow/scripts/inpaint_objects.py"
    script.write_text(
        script.read_text().replace(
            "        done(len(rows))\n",
            "        finished = globals().setdefault('finished', [])\n"
            "        finished.append(len(rows))\n"
            "        if len(finished) == 3 and not os.path.exists('revived'):\n"
            "            os.kill(os.getpid(), signal.SIGKILL)\n"
            "        print(f'part of {len(rows)}', flush=True)\n"
            "        done(len(rows))\n",
        ).replace("import pandas as pd\n", "import os\nimport signal\nimport pandas as pd\n", 1)
    )  # fmt: skip
    target = RUN / "ddb/generated.parquet"
    arguments = overlay(folder, "tiny", **models)
    assert snakemake(folder, *arguments, str(target), check=False).returncode != 0
    assert not (folder / target).exists()
    (parts,) = (folder / RUN / "ddb").glob(".generated-*")
    assert len(list(parts.iterdir())) == 2
    (folder / "revived").touch()
    out = snakemake(folder, *arguments, str(target)).stdout
    assert out.count("part of 8") == 1, "of three"
    assert not list((folder / RUN / "ddb").glob(".generated-*"))
    assert pq.read_table(folder / target).equals(pq.read_table(inpainted / target))


def test_shards_inpaint_the_same_bytes(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    target = RUN / "ddb/generated.parquet"
    arguments = overlay(folder, "tiny", **models)
    (folder / "shards.yaml").write_text("shards: {generation: 2}")
    assert planned(folder, [*arguments[:-1], "shards.yaml", "--"])["inpaint_objects"] == 2
    snakemake(folder, *arguments[:-1], "shards.yaml", "--", str(target))
    assert (folder / target).read_bytes() == (inpainted / target).read_bytes()


def test_a_killed_token_goes_on_after_its_last_state(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    module = folder / "hsfm/methods/ddb/textual_inversion.py"
    module.write_text(
        module.read_text().replace("SAVE_EVERY = 100", "SAVE_EVERY = 1").replace(
            "                    training.save(resume",
            "                    if step == 3 and not Path('revived').exists():\n"
            "                        __import__('os').kill(__import__('os').getpid(), 9)\n"
            "                    training.save(resume",
        )
    )  # fmt: skip
    target = "results/minibirds/tokens/class0.safetensors"
    arguments = overlay(folder, "tiny", **models)
    assert snakemake(folder, *arguments, target, check=False).returncode != 0
    assert list((folder / "results/minibirds/tokens").glob(".resume-class0-*.pt"))
    (folder / "revived").touch()
    snakemake(folder, *arguments, target)
    assert "resuming after step 2 of 4" in (folder / "logs/minibirds/learn_token_0.log").read_text()
    assert not list((folder / "results/minibirds/tokens").glob(".resume-class0-*"))
    ours, theirs = (read_safetensors(path / target)[0]["embedding"] for path in (folder, inpainted))
    assert torch.equal(ours, theirs)


def test_where_nothing_is_found_every_image_says_so(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    snakemake(
        folder, *overlay(folder, "tiny", **{**models, "segment": {**models["segment"], "box_threshold": 1.0}}), "all"
    )
    found = tables(folder)
    assert found["objects"]["mask"].isna().all()
    assert found["objects"]["boxes"].tolist() == [0] * 12
    assert found["pruned"]["why_not"].unique().tolist() == [NOTHING_FOUND]
    assert found["pruned"]["attribution"].isna().all()
    assert len(found["pruned"]) == ROWS
    assert "no generated image was kept" in (folder / "results/tables/main.md").read_text()
    assert (folder / "results/figures/minibirds/generated.png").read_bytes().startswith(b"\x89PNG")


def test_mistakes_are_said_before_anything_runs(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    wrong = {
        "text_to_image": {"name": "/no/such/folder", "revision": None},
        "inpainting": {**models["models"]["inpainting"], "revision": "main"},
        "precision": "float16",
    }
    changes = {"models": {**models["models"], **wrong}, "retrain": {"weights": [1, 2, 3]}}
    arguments = overlay(folder, "tiny", **{**models, **changes, "segment": {**models["segment"], "prompt": "Bird"}})
    out = snakemake(folder, "--config", "device=cpu", *arguments[:-1], "--dry-run", check=False).stdout
    assert "settings/minibirds/ddb/segment/prompt: String should match pattern '^[a-z][a-z .-]*[.]$', got Bird" in out
    arguments = overlay(folder, "tiny", **{**models, **changes})
    out = snakemake(folder, "--config", "device=cpu", *arguments[:-1], "--dry-run", check=False).stdout
    for line in (
        "ddb/retrain/weights: 3 numbers, but the dataset has 2 classes; give one for each",
        "ddb/models/precision: float16 was asked for, which the CPU has not; set it to auto",
        "ddb/models/text_to_image/name: no folder /no/such/folder",
        "ddb/models/inpainting/revision: 'main' is for the hub, but ",
    ):
        assert f"settings/minibirds/{line}" in out
    config = yaml.safe_load((folder / "tiny.yaml").read_text())
    del config["settings"]["minibirds"]["ddb"]["token"]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    out = snakemake(folder, *arguments[:-1], "--dry-run", check=False).stdout
    assert "settings/minibirds/ddb: missing key 'token', which the generator diffusion needs" in out


def test_a_model_that_is_not_there_is_one_line(inpainted, models, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(inpainted, folder)
    absent = {**models["models"], "inpainting": {"name": "nobody/nothing", "revision": None}}
    done = snakemake(folder, *overlay(folder, "tiny", **{**models, "models": absent}), "all", check=False)
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert error.startswith("ERROR: model nobody/nothing: neither a folder nor found among what was downloaded before")


# Without the extra ----------------------------------------------------------------------------------------------------


def without_extra(folder: Path) -> None:
    """Hide the packages of the extra from the processes that run in this folder."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "hidden = ('accelerate', 'captum', 'cv2', 'diffusers', 'open_clip', 'transformers')\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name in hidden else find(name, *rest)\n"
        "sys.modules.update(dict.fromkeys(hidden))\n"
    )


def test_without_the_extra_the_row_is_left_out_and_asking_for_it_says_what_to_install(pasted, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(pasted, folder)
    without_extra(folder)
    arguments = overlay(folder, "small")
    missing = "accelerate, captum, diffusers, open-clip-torch, opencv-python-headless, transformers"
    install = f'pip install -e ".[diffusion]" (missing: {missing})'
    out = snakemake(folder, *arguments, "all").stdout
    assert f"DDB is left out: {install}" in out
    assert "DDB" not in (folder / "results/tables/main.md").read_text()
    shutil.rmtree(folder / RUN / "ddb")
    for target in ("scores.parquet", "sources.parquet", "seed0/heads.safetensors"):
        done = snakemake(folder, *arguments, f"{RUN}/ddb/{target}", check=False)
        assert done.returncode != 0
        assert f"DDB was asked for: {install}" in done.stdout


def test_nothing_but_diffusion_imports_the_extra(pasted, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(pasted, folder)
    without_extra(folder)
    names = [".".join(path.relative_to(folder).with_suffix("").parts) for path in (folder / "hsfm").rglob("*.py")]
    core = sorted(name for name in names if "__" not in name)
    run_python("import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in core), folder)
    for call, package in (("from hsfm.methods.ddb.cut_paste import erase; import numpy as np; "
                           "erase(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), bool), margin=1, radius=1)", "OpenCV"),
                          ("import hsfm.methods.ddb.diffusion_models as m; m.libraries()", "the extra")):  # fmt: skip
        said = run_python(f"try:\n    {call}\nexcept (ValueError, ImportError) as error:\n    print(error)", folder)
        assert package in said
        assert 'pip install -e ".[diffusion]"' in said
