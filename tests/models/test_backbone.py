import sys
import warnings
from unittest import mock
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock

from hsfm.core.files import sha256, write_safetensors
from hsfm.data.transforms import TransformSettings
from hsfm.models.backbone import (
    BackboneSettings,
    Checkpoint,
    build_network,
    find_head,
    read_checkpoint,
    read_foreign,
    take_network,
    write_checkpoint,
    write_retrained,
)
from hsfm.models.small_resnet import small_resnet

# heads of several names and depths, with the side of the images they need
ARCHITECTURES = {
    "efficientnet_b0": 32,
    "googlenet": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "timm:mobilenetv3_small_050": 32,
    "timm:vit_tiny_patch16_224": 224,
}

SETTINGS = {"name": "small_resnet", "pretrained": False, "weights": None, "train": True, "checkpoint": None}


@pytest.fixture
def images():
    return draw(3, 32)


def draw(n, side):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def their_model(name, n_classes):
    """The same model as a user without hsfm builds it."""
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), num_classes=n_classes)
    off = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, num_classes=n_classes, **off)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_checkpoint_is_the_architectures_own_with_its_own_head(tmp_path, name):
    """Their model loads it strictly; features are what their last layer sees, logits what it gives."""
    images = draw(2, ARCHITECTURES[name])
    network = build_network(name, 3, seed=1)
    network.train()(images)  # BatchNorm's statistics move
    network.eval()
    path = tmp_path / "backbone.safetensors"
    write_checkpoint(path, Checkpoint(network, name, ("a", "b", "c"), {}))
    theirs = their_model(name, 3).eval()
    theirs.load_state_dict(load_file(path), strict=True)
    assert list(theirs.state_dict()) == list(network.own_state())
    seen = []
    head = theirs.get_submodule(network.head_name)
    head.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0], output]))
    with torch.no_grad():
        logits, features = theirs(images), network.features(images)
        torch.testing.assert_close(features, seen[0])
        torch.testing.assert_close(network(images), logits)
        assert features.shape == (2, network.n_features)
        assert torch.equal(read_checkpoint(path).network.eval()(images), network(images))
    assert torch.equal(head.weight, network.fc.weight)


def test_every_family_of_torchvision_has_a_head_or_is_refused():
    """On the meta device, where weights take no memory and no time."""
    models, refused = torchvision.models, set()
    families = {models.get_model_builder(name).__module__: name for name in models.list_models(module=models)}
    for name in families.values():
        if name.startswith("regnet"):  # their initializer reads weights; one is tested above
            continue
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the initializers of googlenet and inception_v3
            model = models.get_model(name, weights=None)
        try:
            assert model.get_submodule(find_head(model, name)).out_features == 1000
        except ValueError:
            refused.add(name)
    assert refused == {"maxvit_t", "squeezenet1_1"}


@pytest.mark.parametrize(("name", "weights"), [("small_resnet", None), ("resnet18", "theirs.pt")])
def test_pretrained_weights_that_there_are_none_of_are_refused(name, weights):
    with pytest.raises(ValueError, match=f"{name} with pretrained=True"):
        build_network(name, 2, pretrained=True, weights=weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("squeezenet1_1", "the head of squeezenet1_1 is None, expected one linear layer with a bias"),
        ("mnasnet0_5", "mnasnet0_5 of torchvision loads no plain state dict; timm:mnasnet_100 does"),
        ("maxvit_t", r"the head of maxvit_t is Linear\(in_features=512, out_features=1000, bias=False\)"),
        ("timm:dla34", r"the head of timm:dla34 is Conv2d\("),
        ("timm:deit_tiny_distilled_patch16_224", r"the head of timm:deit_tiny_distilled_patch16_224 is \(Linear\("),
        ("timm:resnet18.nobody", r"cannot make timm:resnet18.nobody \(Invalid pretrained tag .*\)$"),
        ("timm:resnet19", r"cannot make timm:resnet19 \(Unknown model \(resnet19\)\)"),
        ("small_resent", "torchvision has no classification model 'small_resent'; did you mean small_resnet"),
        ("zzz", r"torchvision has no classification model 'zzz'; did you mean timm:NAME or open_clip:NAME\?$"),
    ],
)
def test_names_that_are_unknown_or_have_no_linear_head_are_refused(name, message):
    with pytest.raises(ValueError, match=f"^backbone: {message}"):
        build_network(name, 2)


def test_timm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm:resnet18 needs the package timm; pip install timm"):
        build_network("timm:resnet18", 2)


def test_auxiliary_heads_are_off_and_their_weights_ignored(tmp_path):
    theirs = torchvision.models.get_model("inception_v3", num_classes=2, init_weights=False)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours, images = read_foreign(tmp_path / "theirs.pth", "inception_v3", 2), draw(2, 80)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
        assert ours.train()(images).shape == (2, 2)


def test_one_seed_gives_one_network_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (build_network("small_resnet", 2, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_h_14", "no IMAGENET1K_V1 weights of vit_h_14; set pretrained: false"),
        ("resnet50", r"ImageNet weights of resnet50 \(.*no network.*put .*resnet50-0676ba61.pth into .*checkpoints"),
        ("timm:resnet18", r"cannot make timm:resnet18 \(.*no network.*\); .*set pretrained: false and weights: FILE"),
    ],
)
def test_pretrained_weights_that_cannot_be_had_are_named(monkeypatch, name, message):
    monkeypatch.setattr(torchvision.models, "get_model", mock.Mock(side_effect=URLError("no network")))
    monkeypatch.setattr(timm, "create_model", mock.Mock(side_effect=URLError("no network")))
    with pytest.raises(ValueError, match=message):
        build_network(name, 2, pretrained=True)


def test_weights_give_the_backbone_and_leave_the_head_fresh(tmp_path, images):
    theirs = torchvision.models.resnet18(num_classes=1000)
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "imagenet.pth")  # torchvision's files are older than those counters
    headless = {key: value for key, value in state.items() if not key.startswith("fc.")}
    write_safetensors(tmp_path / "headless.safetensors", headless, {})
    theirs.fc = torch.nn.Identity()
    for file in ("imagenet.pth", "headless.safetensors"):
        network = build_network("resnet18", 3, weights=tmp_path / file, seed=5).eval()
        with torch.no_grad():
            torch.testing.assert_close(network.features(images), theirs.eval()(images))
        assert torch.equal(network.fc.weight, build_network("resnet18", 3, seed=5).fc.weight)


def test_a_head_of_one_logit_becomes_two(tmp_path, images):
    theirs = torchvision.models.mobilenet_v3_small(num_classes=1).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    network = read_foreign(tmp_path / "theirs.pt", "mobilenet_v3_small", 2).eval()
    with torch.no_grad():
        z = theirs(images)
        torch.testing.assert_close(network(images), torch.cat([torch.zeros_like(z), z], dim=1))
        torch.testing.assert_close(network(images).softmax(1)[:, 1:], z.sigmoid())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": None}, 'Missing key.* "fc.weight"'),
        ({"fc.scale": torch.ones(1)}, 'Unexpected key.* "fc.scale"'),
        ({"bn1.weight": None, "norm.weight": torch.ones(16)}, 'Missing.* "bn1.weight".* Unexpected.* "norm.weight"'),
        (
            {"conv1.weight": torch.ones(16, 3, 5, 5)},
            r"size mismatch for conv1.weight: .*\[16, 3, 5, 5\].*\[16, 3, 3, 3\]",
        ),
        ({"fc.bias": torch.ones(3)}, r"size mismatch for fc.bias: .*\[3\].*\[2\]"),
    ],
)
def test_a_file_that_does_not_fit_names_the_tensors(tmp_path, change, message):
    path, state = tmp_path / "theirs.safetensors", build_network("small_resnet", 2).own_state()
    changed = {key: value for key, value in {**state, **change}.items() if value is not None}
    write_safetensors(path, changed, {"backbone": "small_resnet", "classes": '["a", "b"]'})
    readers = [lambda: read_checkpoint(path), lambda: read_foreign(path, "small_resnet", 2)]
    if not any(key.startswith("fc.") for key in change):  # of the head of weights nothing is read
        readers.append(lambda: build_network("small_resnet", 2, weights=path))
    for read in readers:
        with pytest.raises(ValueError, match=f"theirs.safetensors: .*{message}"):
            read()


@pytest.mark.parametrize(("found", "wanted"), [(3, 2), (1, 3)])
def test_a_head_of_other_classes_is_refused(tmp_path, found, wanted):
    torch.save(build_network("small_resnet", found).own_state(), tmp_path / "theirs.pt")
    with pytest.raises(ValueError, match=f"the head 'fc.weight' is for {found} classes, but the images have {wanted}"):
        read_foreign(tmp_path / "theirs.pt", "small_resnet", wanted)


def test_the_small_network_is_the_one_described(images):
    """Stem with stride 2, batch norm and ReLU; blocks of 16, 32, 64, 128 channels; global average."""
    network = build_network("small_resnet", 2, seed=0).eval()
    body = network.body
    x = torch.relu(body.bn1(torch.nn.functional.conv2d(images, body.conv1.weight, stride=2, padding=1)))
    shapes = [tuple(x.shape[1:])]
    for layer in (body.layer1, body.layer2, body.layer3, body.layer4):
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (128, 2, 2)]
    with torch.no_grad():
        torch.testing.assert_close(network.features(images), x.mean((2, 3)))


def test_early_logits_lie_beside_the_network_and_are_no_part_of_it(tmp_path):
    network, early_logits = build_network("small_resnet", 2, seed=1), torch.randn(5, 2)
    for name, kept in {"bare": None, "early": early_logits}.items():
        write_checkpoint(tmp_path / f"{name}.safetensors", Checkpoint(network, "small_resnet", ("a", "b"), {}, kept))
    bare, early = (load_file(tmp_path / f"{name}.safetensors") for name in ("bare", "early"))
    assert bare.keys() == network.own_state().keys()
    assert early.keys() - bare.keys() == {"early_logits"}
    path = tmp_path / "early.safetensors"
    read = read_checkpoint(path)
    assert torch.equal(read.early_logits, early_logits)
    started = build_network("small_resnet", 2, weights=path)
    assert torch.equal(started.body.conv1.weight, network.body.conv1.weight)
    for again in (read.network, read_foreign(path, "small_resnet", 2)):
        assert all(torch.equal(p, q) for p, q in zip(again.parameters(), network.parameters(), strict=True))


def test_a_network_that_was_trained_further_keeps_what_its_start_says(tmp_path):
    network = build_network("small_resnet", 2, seed=1)
    metadata = {"dataset": "toy", "transform": "{}", "settings": "those of ERM"}
    start = Checkpoint(network, "small_resnet", ("a", "b"), metadata, torch.zeros(3, 2))
    further = build_network("small_resnet", 2, seed=2)
    digest = write_retrained(tmp_path / "further.safetensors", further, start, {"dac": {"alpha": 6}})
    assert digest == sha256(tmp_path / "further.safetensors")
    read = read_checkpoint(tmp_path / "further.safetensors")
    assert read.metadata.items() >= {**metadata, "settings": '{"dac": {"alpha": 6}}'}.items()
    assert (read.name, read.class_names, read.early_logits) == ("small_resnet", ("a", "b"), None)
    assert all(torch.equal(p, q) for p, q in zip(read.network.parameters(), further.parameters(), strict=True))


def test_a_network_is_taken_as_its_settings_say(tmp_path):
    transform = TransformSettings(resize=None, crop=None, mean=[0.5] * 3, std=[0.5] * 3)
    ours, again = take_network(BackboneSettings(**SETTINGS), 3, transform), build_network("small_resnet", 3)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), again.parameters(), strict=True))
    theirs = build_network("small_resnet", 3, seed=4)
    torch.save(theirs.own_state(), tmp_path / "theirs.pth")
    settings = BackboneSettings(**{**SETTINGS, "checkpoint": str(tmp_path / "theirs.pth")})
    taken = take_network(settings, 3, transform)
    assert all(torch.equal(p, q) for p, q in zip(taken.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "no spaces"}, "name"),
        ({"weights": ""}, "weights"),
        ({"pretrained": True}, "small_resnet has no pretrained weights"),
        ({"weights": "a.pth", "checkpoint": "b.pth"}, "weights and checkpoint exclude one another; set all but one to"),
        ({"train": False}, "train is false, but there are neither pretrained weights nor a checkpoint"),
    ],
)
def test_settings_that_no_network_can_have_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        BackboneSettings(**{**SETTINGS, **change})


@pytest.mark.parametrize(("before", "width", "stride"), [(16, 16, 1), (16, 32, 2)])
def test_the_small_networks_block_is_torchvisions(before, width, stride):
    ours = small_resnet().get_submodule(f"layer{stride}.0")
    shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    theirs = BasicBlock(before, width, stride, shortcut if stride > 1 else None)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, before, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(images), theirs(images))
