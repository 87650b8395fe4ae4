import pytest
import torch

from hsfm.device import accelerator_present, choose_device, mixed_precision


def test_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_the_driver_and_torch_agree():
    assert accelerator_present() == torch.cuda.is_available()


def test_unknown_and_absent_devices_are_named(monkeypatch):
    with pytest.raises(ValueError, match="device: 'gpu' is unknown; allowed are auto, cpu, cuda"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device: 'cuda:1' was asked for, but torch .* finds no CUDA device"):
        choose_device("cuda:1")


def test_the_cpu_trains_in_full_precision():
    autocast, scaler = mixed_precision(torch.device("cpu"))
    with autocast:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == torch.float32
    assert not scaler.is_enabled()


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_cuda_trains_in_bfloat16_where_it_has_it(monkeypatch, has_bfloat16, dtype):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    monkeypatch.setattr(torch, "autocast", lambda kind, **kw: asked.update(kind=kind, **kw))
    monkeypatch.setattr(torch.amp, "GradScaler", lambda kind, enabled: asked.update(scaler=enabled))
    mixed_precision(torch.device("cuda"))
    assert asked == {"kind": "cuda", "dtype": dtype, "enabled": True, "scaler": not has_bfloat16}
