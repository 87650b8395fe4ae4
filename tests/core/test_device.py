import itertools
import os
import threading

import pytest
import torch

from hsfm.core.device import Compute, ComputeSettings, choose_device, prefetch, upload

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IN_FLOAT32, IN_BFLOAT16 = ComputeSettings(precision="float32"), ComputeSettings(precision="bfloat16")


def test_a_device_is_chosen_by_name_or_error(monkeypatch):
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Compute.on("cpu", precision="float32") == Compute(CPU, IN_FLOAT32)
    with pytest.raises(ValueError, match="device: 'gpu' is unknown; allowed are auto, cpu, cuda"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device: 'cuda:1' was asked for, but torch .* finds no CUDA device"):
        choose_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"device: 'cuda:1' was asked for, but torch finds 1 CUDA devices"):
        choose_device("cuda:1")


def product(compute: Compute) -> torch.Tensor:
    with compute.autocast():
        return torch.ones(2, 2) @ torch.ones(2, 2)


def test_the_cpu_computes_in_full_precision_unless_told_otherwise():
    for precision in ("auto", "float32"):
        compute = Compute.on("cpu", precision=precision)
        assert product(compute).dtype == compute.dtype == torch.float32
        assert not compute.scaler().is_enabled()
    assert product(Compute(CPU, IN_BFLOAT16)).dtype == torch.bfloat16


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cuda_computes_in_bfloat16_where_it_has_it(monkeypatch, has_bfloat16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert Compute(GPU).dtype == dtype
    assert Compute(GPU, IN_FLOAT32).dtype == torch.float32
    asked, scaler = [], torch.amp.GradScaler("cpu")
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: asked.append((kind, enabled)) or scaler)
    Compute(GPU).scaler()
    assert asked == [("cuda", not has_bfloat16)]


@pytest.mark.parametrize(("side", "sizes"), [(224, [5, 5, 2]), (2048, [1] * 12), (16, [12])])
def test_the_cpu_takes_a_few_images_at_a_time(side, sizes):
    parts = [range(12)[part] for part in Compute(CPU).parts(12, side, side)]
    assert [len(part) for part in parts] == sizes
    assert list(itertools.chain(*parts)) == list(range(12))
    assert Compute(GPU, IN_FLOAT32).parts(12, side, side) == [slice(0, 12)]


def test_images_stay_on_a_gpu_within_the_budget_and_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    compute = Compute(GPU, ComputeSettings(precision="float32", images_on_gpu_gb=4))
    assert [compute.keeps(n * 10**9) for n in (3, 4, 5)] == [True, True, False]
    assert [Compute(GPU, IN_FLOAT32).keeps(n * 10**9) for n in (5, 6)] == [True, False]
    assert not Compute(CPU).keeps(1)


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_repeat_or_are_fast_and_are_as_before_afterwards(monkeypatch, deterministic):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)  # which would import torch's compiler
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.backends.cudnn.benchmark
    with Compute(GPU, ComputeSettings(precision="float32", deterministic=deterministic)).repeatable():
        assert asked == [deterministic]
        assert torch.backends.cudnn.benchmark != deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (asked, torch.backends.cudnn.benchmark) == ([deterministic, False], before)


def test_networks_are_laid_out_and_compiled_as_asked_for(monkeypatch):
    assert Compute(CPU).prepare(torch.nn.Conv2d(3, 4, 3)).weight.is_contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(torch, "compile", lambda function: max)
    assert Compute(CPU).compiled(min) is min
    assert Compute(CPU, ComputeSettings(compile=True)).compiled(min) is max


def test_running_ahead_keeps_order_and_depth():
    made, used = [], []
    for i in prefetch(made.append(i) or i for i in range(10)):
        used.append(i)
        assert len(made) <= len(used) + 2
    assert used == list(range(10))
    assert list(prefetch([])) == []


def test_an_error_on_the_way_arrives_and_no_thread_goes_on():
    ahead = prefetch(1 // i for i in (1, 0))
    assert next(ahead) == 1
    with pytest.raises(ZeroDivisionError):
        next(ahead)
    before = threading.active_count()
    endless = prefetch(itertools.count())
    next(endless)
    endless.close()
    assert threading.active_count() == before


class Item(str):
    """An item of `upload` that says what happened to it."""

    def pinned(self):
        return Item(f"{self} pinned")

    def to(self, device):
        return f"{self} on {device.type}"


def test_items_for_a_gpu_are_pinned_and_then_copied():
    assert list(upload(map(Item, "abc"), GPU)) == [f"{name} pinned on cuda" for name in "abc"]
    assert list(upload([1, 2], CPU)) == [1, 2]
