from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from hsfm.backbone import Network, build_network, read_checkpoint, write_checkpoint
from hsfm.files import read_safetensors, write_safetensors


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "d"), [("small_resnet", 128), ("resnet18", 512), ("resnet34", 512), ("resnet50", 2048)]
)
def test_logits_are_the_head_on_the_features(images, name, d):
    network = build_network(name, 5, seed=1).eval()
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (3, d)
        assert network.n_features == d
        torch.testing.assert_close(network(images), features @ network.fc.weight.T + network.fc.bias)


def test_one_seed_gives_one_network_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, second, other = (build_network("small_resnet", 2, seed=s).state_dict() for s in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_a_checkpoint_loads_into_torchvisions_own_model(tmp_path, images):
    path = tmp_path / "backbone.safetensors"
    network = build_network("resnet18", 3, seed=0).eval()
    write_checkpoint(path, network, name="resnet18", class_names=("a", "b", "c"), metadata={"dataset": "toy"})
    theirs = torchvision.models.resnet18(num_classes=3).eval()
    theirs.load_state_dict(load_file(path))
    ours = read_checkpoint(path)
    assert ours.class_names == ("a", "b", "c")
    assert ours.metadata["dataset"] == "toy"
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), network(images))
        assert torch.equal(ours.network.eval()(images), network(images))


def test_checkpoints_that_do_not_fit_name_the_tensor(tmp_path):
    path = tmp_path / "backbone.safetensors"
    network = build_network("small_resnet", 2)
    write_checkpoint(path, network, name="small_resnet", class_names=("a", "b"), metadata={})
    tensors, metadata = read_safetensors(path)
    for change, message in (
        ({"layer1.0.bn1.weight": None}, r"tensor 'layer1.0.bn1.weight' is missing"),
        ({"extra": torch.ones(1)}, r"tensor 'extra' is not part of the network"),
        ({"fc.weight": torch.ones(2, 64)}, r"tensor 'fc.weight' is \[2, 64\], expected \[2, 128\]"),
    ):
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        write_safetensors(path, changed, metadata)
        with pytest.raises(ValueError, match=f"backbone.safetensors: {message}"):
            read_checkpoint(path)


def test_names_are_checked():
    with pytest.raises(
        ValueError, match="unknown name 'resnet19'; allowed are small_resnet, resnet18, resnet34, resnet50"
    ):
        build_network("resnet19", 2)
    with pytest.raises(ValueError, match="small_resnet has no pretrained weights"):
        build_network("small_resnet", 2, pretrained=True)


def test_pretrained_asks_torchvision_for_its_first_imagenet_weights(monkeypatch):
    asked = {}

    def get_model(name, weights):
        asked.update(name=name, weights=weights)
        return torchvision.models.resnet18(weights=None)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    assert isinstance(build_network("resnet18", 2, pretrained=True), Network)
    assert asked == {"name": "resnet18", "weights": torchvision.models.ResNet18_Weights.IMAGENET1K_V1}


def test_weights_that_cannot_be_had_are_named_with_where_to_put_them(monkeypatch):
    def get_model(name, weights):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    message = r"cannot load the ImageNet weights of resnet50 \(.*no network.*put .*resnet50-.*pth into .*checkpoints"
    with pytest.raises(ValueError, match=message):
        build_network("resnet50", 2, pretrained=True)


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
