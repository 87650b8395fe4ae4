import itertools
import os
import threading
from contextlib import contextmanager

import pytest
import torch
from pydantic import ValidationError

from hsfm.core import device
from hsfm.core.device import (
    Compute,
    ComputeSettings,
    choose_device,
    fetch,
    out_of_memory,
    prefetch,
    upload,
)


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_unknown_and_absent_devices_are_named(monkeypatch):
    with pytest.raises(ValueError, match="device: 'gpu' is unknown; allowed are auto, cpu, cuda"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device: 'cuda:1' was asked for, but torch .* finds no CUDA device"):
        choose_device("cuda:1")


CPU, GPU = torch.device("cpu"), torch.device("cuda")
IN_FLOAT32, IN_BFLOAT16 = ComputeSettings(precision="float32"), ComputeSettings(precision="bfloat16")


@pytest.mark.parametrize(("key", "value"), [("precision", "half"), ("images_on_gpu_gb", -1), ("images", 1)])
def test_settings_out_of_bounds_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        ComputeSettings(**{key: value})


def product(compute: Compute) -> torch.Tensor:
    with compute.autocast():
        return torch.ones(2, 2) @ torch.ones(2, 2)


def test_the_cpu_computes_in_full_precision_unless_told_otherwise(monkeypatch):
    for precision in ("auto", "float32"):
        compute = Compute.on("cpu", precision=precision)
        assert product(compute).dtype == compute.dtype == torch.float32
        assert not compute.scaler().is_enabled()
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert product(Compute(CPU, IN_BFLOAT16)).dtype == torch.bfloat16
    assert not Compute(CPU, IN_BFLOAT16).scaler().is_enabled()


def test_a_precision_without_instructions_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    with pytest.raises(ValueError, match="precision: bfloat16 was asked for, but this processor has no instructions"):
        Compute(CPU, IN_BFLOAT16)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(ValueError, match="precision: bfloat16 was asked for, but this GPU has no instructions"):
        Compute(GPU, IN_BFLOAT16)


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cuda_computes_in_bfloat16_where_it_has_it(monkeypatch, has_bfloat16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert Compute(GPU).dtype == dtype
    assert Compute(GPU, IN_FLOAT32).dtype == torch.float32
    asked, scaler = [], torch.amp.GradScaler("cpu")
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: asked.append((kind, enabled)) or scaler)
    Compute(GPU).scaler()
    assert asked == [("cuda", not has_bfloat16)]


def test_networks_keep_channels_last():
    network = Compute(CPU).prepare(torch.nn.Conv2d(3, 4, 3))
    assert network.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("side", "sizes"), [(224, [5, 5, 2]), (2048, [1] * 12), (16, [12])])
def test_the_cpu_takes_a_few_images_at_a_time(side, sizes):
    images = list(range(12))
    parts = [images[part] for part in Compute(CPU).parts(12, side, side)]
    assert [len(part) for part in parts] == sizes
    assert [i for part in parts for i in part] == images
    assert Compute(GPU, IN_FLOAT32).parts(12, side, side) == [slice(0, 12)]


def test_images_stay_on_a_gpu_within_the_budget_and_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    compute = Compute(GPU, ComputeSettings(precision="float32", images_on_gpu_gb=4))
    assert [compute.keeps(n * 10**9) for n in (3, 4, 5)] == [True, True, False]
    assert [Compute(GPU, IN_FLOAT32).keeps(n * 10**9) for n in (5, 6)] == [True, False]
    assert not Compute(CPU).keeps(1)


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_repeat_or_are_fast_and_are_as_before_afterwards(monkeypatch, deterministic):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    with Compute(GPU, ComputeSettings(precision="float32", deterministic=deterministic)).repeatable():
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_a_layer_that_cannot_repeat_itself_is_an_error_that_says_what_to_do():
    message = "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use"
    with (
        pytest.raises(
            ValueError, match=r"deterministic: .*adaptive_avg_pool2d_backward_cuda .*set deterministic: false"
        ),
        Compute(GPU, IN_FLOAT32).repeatable(),
    ):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shapes"), Compute(GPU, IN_FLOAT32).repeatable():
        raise RuntimeError("shapes do not match")
    assert not torch.are_deterministic_algorithms_enabled()


def test_networks_are_compiled_where_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: max)
    assert Compute(CPU).compiled(min) is min
    assert Compute(CPU, ComputeSettings(compile=True)).compiled(min) is max


def test_memory_errors_are_told_from_others():
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("size mismatch"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert out_of_memory(caught.value)


def test_running_ahead_keeps_order_and_depth():
    made, used = [], []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    for i in prefetch(items(), depth=3):
        used.append(i)
        assert len(made) <= len(used) + 3
    assert used == list(range(10))
    assert list(prefetch([])) == []


def test_an_error_on_the_way_arrives_and_nothing_goes_on():
    made = []

    def items():
        made.append(1)
        yield 1
        raise ValueError("broken")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)
    before = threading.active_count()
    endless = prefetch(itertools.count())
    next(endless)
    endless.close()
    assert threading.active_count() == before


def test_what_lies_on_the_cpu_is_handed_on():
    tensors = [torch.ones(2), torch.zeros(3)]
    assert list(upload(tensors, CPU)) == tensors
    assert list(fetch(iter(tensors))) == tensors


class Item:
    """An item of `upload` that writes down what happens to it."""

    def __init__(self, number, events):
        self.number, self.events = number, events

    def pinned(self):
        self.events.append((self.number, "pinned", current["stream"]))
        return self

    def to(self, device):
        self.events.append((self.number, "copied", current["stream"]))
        return self

    def tensors(self):
        return (self,)

    def record_stream(self, stream):
        self.events.append((self.number, "kept for", stream.name))


current = {"stream": "main"}


class Stream:
    def __init__(self, events, name):
        self.events, self.name, self.copies = events, name, 0

    def record_event(self):
        self.copies += 1
        return self.copies - 1

    def wait_event(self, number):
        self.events.append((number, "waited for", self.name))


def test_copies_to_a_gpu_run_beside_it_and_are_waited_for_before_use(monkeypatch):
    """The order of the calls; whether a GPU then overlaps them, only a GPU can show."""
    events = []
    main, side = Stream(events, "main"), Stream(events, "side")

    @contextmanager
    def on(stream):
        current["stream"] = stream.name
        yield
        current["stream"] = "main"

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: side)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    seen = [item.number for item in upload([Item(i, events) for i in range(5)], GPU)]
    assert seen == list(range(5))
    for number in range(5):
        own = [event[1:] for event in events if event[0] == number]
        assert own == [("pinned", "side"), ("copied", "side"), ("waited for", "main"), ("kept for", "main")]


class OnGpu:
    device = GPU

    def __init__(self, number):
        self.number = number


def test_results_are_fetched_while_the_next_is_computed(monkeypatch):
    events = []

    def start(tensor):
        events.append(("copy", tensor.number))
        return lambda: events.append(("done", tensor.number)) or tensor.number

    def computed():
        for i in range(3):
            events.append(("compute", i))
            yield OnGpu(i)

    monkeypatch.setattr(device, "_start_copy", start)
    assert list(fetch(computed())) == [0, 1, 2]
    assert events == [("compute", 0), ("copy", 0), ("compute", 1), ("copy", 1), ("done", 0), ("compute", 2),
                      ("copy", 2), ("done", 1), ("done", 2)]  # fmt: skip


def test_compute_on_a_device_by_its_name():
    assert Compute.on("cpu", precision="float32") == Compute(CPU, IN_FLOAT32)
    with pytest.raises(ValueError, match="device: 'gpu' is unknown"):
        Compute.on("gpu")
