from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hsfm_workflow import resources
from snakemake.resources import Resource


def test_memory_grows_with_the_inputs_and_the_attempts(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(3_000_000))
    train, images = str(tmp_path / "a"), str(tmp_path / "b")
    asked = resources.memory(100)
    assert asked(None, {"train": train, "more": [train, images], "images": images, "pixels": train}, 1) == 100 + 36 + 90
    assert asked(None, {"train": train}, 3) == 3 * (100 + 12)
    assert asked(None, {"train": str(tmp_path / "not there")}, 1) == 100
    assert resources.memory(100, times=2)(None, {"train": train}, 1) == 2 * (100 + 12)
    assert resources.memory(100, images=50)(None, {"train": train, "images": images}, 1) == 100 + 12 + 150


@pytest.mark.parametrize(
    ("device", "local", "there", "count"),
    [("auto", True, False, 0), ("auto", True, True, 2), ("auto", False, False, 2), ("cpu", False, True, 0),
     ("cuda", True, True, 2), ("cuda:1", False, False, 2)],
)  # fmt: skip
def test_a_gpu_is_asked_for_where_jobs_can_have_one(monkeypatch, device, local, there, count):
    monkeypatch.setattr(resources, "accelerator_present", lambda: there)
    assert resources.gpus(SimpleNamespace(local_exec=local), device, 2)(None) == count


@pytest.mark.parametrize(
    ("asks", "stops"), [({"gpu": resources.gpus(None, "cuda")}, True), ({"gpu": 0}, False), ({"mem_mb": 9}, False)]
)
def test_a_device_that_is_not_there_is_one_line_before_any_job(monkeypatch, caplog, asks, stops):
    monkeypatch.setattr(resources, "accelerator_present", lambda: False)
    monkeypatch.setattr(resources.logger, "propagate", True)
    job = SimpleNamespace(rule=SimpleNamespace(resources={name: Resource(name, value) for name, value in asks.items()}))
    workflow = SimpleNamespace(local_exec=True, dag=SimpleNamespace(needrun_jobs=lambda: [job]))
    with pytest.raises(SystemExit) if stops else nullcontext():
        resources.check_device(workflow, "cuda")
    assert ("ERROR: device: 'cuda' was asked for, but this machine has no CUDA device" in caplog.text) == stops
