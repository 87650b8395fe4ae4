import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.data.pixels import pack as pack_pixels
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.features.embeddings import Embeddings
from hsfm.features.extract import feature_function
from hsfm.features.standardize import fit as fit_standardization
from hsfm.heads.draw import draw_per_class
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.dac import Settings, fit
from hsfm.methods.dac.fit import DaCInputs, compose, draw_partners
from hsfm.methods.dac.masks import Masks, pack
from hsfm.models.backbone import Network, build_network
from tests.methods.small import worst_group

TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
CPU = Compute(torch.device("cpu"))
SETTINGS = {"alpha": 2.0, "batch_size": 16, "epochs": 3, "lr_halved_every": 2}  # the others as they are by default
LEFT = (torch.arange(16) < 8).expand(16, 16)


def test_compositions_pixel_by_pixel():
    """x_i m_i + (1 - m_i) mu, and x_i m_i + (1 - m_i) (1 - m_j) x_j + (1 - m_i) m_j mu."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 6, generator=g)
    m = torch.rand(4, 5, 6, generator=g) < 0.4
    partner, mu = torch.tensor([2, 0, 3, 3]), torch.randn(3, generator=g)
    masked, composed = compose(x, m, partner, mu)
    for i, channel, row, column in np.ndindex(4, 3, 5, 6):
        j = int(partner[i])
        own, other = float(m[i, row, column]), float(m[j, row, column])
        here, there, mean = x[i, channel, row, column], x[j, channel, row, column], mu[channel]
        assert masked[i, channel, row, column] == here * own + (1 - own) * mean
        expected = here * own + (1 - own) * (1 - other) * there + (1 - own) * other * mean
        assert composed[i, channel, row, column] == expected


@pytest.mark.parametrize("y", [[0, 1], [0, 0, 0, 1], [2, 0, 1, 1, 0, 2, 2, 2], [3, 1, 3, 3]])
def test_partners_are_of_another_class_and_any_of_them(y):
    y, g = torch.tensor(y), torch.Generator().manual_seed(0)
    seen = torch.zeros(len(y), len(y))
    for _ in range(500):
        seen[torch.arange(len(y)), draw_partners(y, g)] += 1
    others = (y[:, None] != y).float()
    share = others / others.sum(1, keepdim=True)
    # uniform among them: within five standard deviations of a binomial count, and never of one's own class
    assert ((seen - 500 * share).abs() <= 5 * (500 * share * (1 - share)).sqrt() + 1e-3).all()


def test_partners_in_one_class_are_a_permutation():
    partner = draw_partners(torch.tensor([1, 1, 1, 1, 1]), torch.Generator().manual_seed(3))
    assert sorted(partner.tolist()) == [0, 1, 2, 3, 4]
    assert draw_partners(torch.tensor([4]), torch.Generator()).tolist() == [0]


@pytest.fixture(scope="module")
def world():
    """Images whose left half shows the class, the right half a place that mostly comes with it; a network on them."""
    rng = np.random.default_rng(0)
    splits, pixels = {}, {}
    network = build_network("small_resnet", 2, seed=0)
    with torch.no_grad():
        for seed in range(3):  # so that BatchNorm has statistics
            network.train()(torch.randn(32, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    features = feature_function(network, TRANSFORM, CPU)
    for split, counts in (("train", (60, 6, 6, 60)), ("val", (20,) * 4), ("test", (20,) * 4)):
        group = rng.permutation(np.repeat(np.arange(4), counts))
        y, attribute = group // 2, group % 2
        images = rng.normal(128, 25, (len(y), 16, 16, 3))
        images[:, :, :8] += 15 * (2 * y - 1)[:, None, None, None] * np.array([1, 0, -1])
        images[:, :, 8:] += 60 * (2 * attribute - 1)[:, None, None, None] * np.array([0, 1, 0])
        pixels[split] = pack_pixels(list(images.clip(0, 255).astype(np.uint8)))
        with torch.inference_mode():
            x = features(pixels[split]).clone()
        names = {"class_names": ("red", "blue"), "attribute_names": ("dark", "bright"), "dataset": "halves"}
        ids = tuple(f"{split}-{i}" for i in range(len(y)))
        known = {"split": split, "checkpoint_sha256": "a" * 64}
        splits[split] = Embeddings(x, torch.tensor(y), torch.tensor(attribute), ids, **names, **known)
    head = Head(network.fc.weight.detach().clone(), network.fc.bias.detach().clone())
    kept = pack(LEFT.expand(len(splits["train"].y), 16, 16))
    masks = Masks(splits["train"].image_id, kept, (16, 16), None, {})
    return network, splits, pixels, masks, head


def all_fitted(world, seeds=(0,), rule="worst_group", standardization=None, splits=None, **changed):
    """DaC on the world with some of it or of the settings changed."""
    network, own, pixels, masks, head = world
    network, pixels, masks = (changed.pop(name, one) for name, one in
                              (("network", copy.deepcopy(network)), ("pixels", pixels), ("masks", masks)))  # fmt: skip
    data = {**own, **(splits or {})}
    inputs = DaCInputs(network, TRANSFORM, standardization, CPU, masks, pixels.__getitem__)
    settings, scorer = Settings(**{**SETTINGS, **changed}), Scorer(data["val"], rule)
    return fit(data["train"], data["val"], head, settings=settings, seeds=seeds, scorer=scorer, inputs=inputs)


def fitted(world, seed=0, **changed):
    """The same with one seed: its head, history, and network where that drifted."""
    found = all_fitted(world, (seed,), **changed)
    network = found.networks[0] if found.networks else None
    return SimpleNamespace(head=found.head[0], history=found.tables["history"], network=network)


def test_known_masks_make_the_head_look_at_the_object(world):
    """And masks of the other half make it look at the place; `invert` turns them into the first."""
    _, splits, _, masks, _ = world
    settings = {"epochs": 6, "alpha": 6.0, "lr": 4e-2, "lr_halved_every": 3}
    wrong = replace(masks, packed=~masks.packed)
    plain, good, bad, inverted = (
        worst_group(fitted(world, **(settings | changed)).head, splits["test"])
        for changed in ({"alpha": 0.0}, {}, {"masks": wrong}, {"masks": wrong, "invert": True})
    )
    assert good > plain + 0.1
    assert bad < good - 0.2
    assert inverted == good


def test_one_step_by_hand(world):
    """One batch of everything: threshold, partners, loss and Adam, each written out."""
    network, splits, pixels, _masks, erm = world
    train = splits["train"]
    n = len(train.y)
    result = fitted(world, batch_size=n, epochs=1, seed=5, rule="worst_class")

    g = torch.Generator().manual_seed(5)
    weight = torch.nn.init.xavier_uniform_(torch.empty(2, 128), generator=g).requires_grad_()
    bias = torch.zeros(2, requires_grad=True)
    order = torch.randperm(n, generator=g)
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    easy = [int(i) for i in order if float(loss[i]) <= np.quantile(loss.numpy(), 0.8)]
    partner = draw_partners(train.y[easy], g)
    x = prepare(pixels["train"], TRANSFORM)
    mean = x.mean((0, 2, 3))
    masked = torch.stack([torch.where(LEFT, x[i], mean.view(3, 1, 1)) for i in easy])
    # what the partner's own mask covers is the left half, so that the whole right half is the partner's
    composed = torch.stack([torch.where(LEFT, x[i], x[easy[int(j)]]) for i, j in zip(easy, partner, strict=True)])
    with torch.no_grad():
        features = [network.eval().features(part) for part in (masked, composed)]

    def mean_loss(features, y):
        return cross_entropy(features @ weight.T + bias, y)

    y = train.y[easy]
    parts = [mean_loss(train.features[order], train.y[order]), *(mean_loss(part, y) for part in features)]
    total = parts[0] + 2.0 * parts[1] + 2.0 * parts[2]
    adam = torch.optim.Adam([weight, bias], lr=5e-3)
    total.backward()
    adam.step()
    torch.testing.assert_close(result.head.weight, weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(result.head.bias, bias.detach(), atol=1e-5, rtol=1e-4)
    row = result.history.iloc[0]
    found = [row["loss"], row["batch_loss"], row["masked_loss"], row["composed_loss"]]
    assert found == pytest.approx([float(value.detach()) for value in (total, *parts)], rel=1e-4)
    assert row["selected"] == pytest.approx(len(easy) / n)


def test_the_best_epoch_is_kept_the_first_among_equals(world):
    _, splits, _, _, _ = world
    result = fitted(world, epochs=5)
    history = result.history
    best = history.sort_values(["val_worst_group", "val_average"], ascending=False, kind="stable").iloc[0]
    assert history.loc[history["kept"], "epoch"].tolist() == [best["epoch"]]
    assert worst_group(result.head, splits["val"]) == pytest.approx(best["val_worst_group"])


def test_epochs_are_judged_on_rows_that_teach_nothing(world):
    """Other classes on validation change which epoch is kept, and no step of the training."""
    _, splits, _, _, _ = world
    flipped = {**splits, "val": replace(splits["val"], y=1 - splits["val"].y)}
    found, other = (fitted(world, splits=part, epochs=5).history for part in (splits, flipped))
    assert found["batch_loss"].tolist() == other["batch_loss"].tolist()
    assert found["val_average"].tolist() == pytest.approx((1 - other["val_average"]).tolist())


def test_group_labels_are_read_to_select_by_the_worst_group_alone(world):
    _, splits, _, _, _ = world
    unknown = {name: replace(splits[name], attribute=torch.full_like(splits[name].attribute, -1)) for name in splits}
    blind = fitted(world, splits=unknown, rule="worst_class")
    seeing = fitted(world, rule="worst_class")
    assert torch.equal(blind.head.weight, seeing.head.weight)
    assert blind.history["val_worst_group"].isna().all()


def test_balanced_classes_take_as_many_of_each(world):
    _, splits, _, _, _ = world
    train = splits["train"]
    skewed = replace(train, y=(torch.arange(len(train.y)) % 4 == 0).long())
    generator = torch.Generator().manual_seed(0)
    rows = draw_per_class(skewed.y, 33, 2, generator).sort()[0]
    assert torch.bincount(skewed.y[rows]).tolist() == [33, 33]
    # one step over those rows, whose images, masks and features belong together
    how = {"epochs": 1, "batch_size": 66, "quantile": 1.0, "balance_classes": True}
    history = fitted(world, splits={"train": skewed}, **how).history
    assert history["selected"].tolist() == [1.0]
    weight = torch.nn.init.xavier_uniform_(torch.empty(2, 128), generator=generator)
    expected = cross_entropy(skewed.features[rows] @ weight.T, skewed.y[rows])
    assert history["batch_loss"].item() == pytest.approx(float(expected), rel=1e-5)


def test_the_learning_rate_is_halved(world, monkeypatch):
    n, rates = len(world[1]["train"].y), []
    step = torch.optim.Adam.step

    def watched(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    fitted(world, batch_size=n, epochs=5, lr=0.08, lr_halved_every=2)
    assert rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02])


def test_standardized_features_are_those_of_composed_images_too(world):
    """The same fit on a network whose last BatchNorm-free layer standardizes by itself."""
    network, splits, _, _, _ = world
    standardization = fit_standardization(splits["train"].features, 0.5)
    spread = {name: replace(part, features=standardization.apply(part.features)) for name, part in splits.items()}
    result = fitted(world, splits=spread, standardization=standardization)

    class Standardized(type(network)):
        def features(self, images):
            return standardization.apply(super().features(images))

    same = copy.deepcopy(network)
    same.__class__ = Standardized
    expected = fitted(world, splits=spread, network=same)
    torch.testing.assert_close(result.head.weight, expected.head.weight)
    raw = fitted(world, splits=spread)  # composed images left raw
    assert not torch.allclose(result.head.weight, raw.head.weight, atol=1e-3)


def test_drifting_batchnorm_moves_the_features_and_frozen_does_not(world):
    network, splits, pixels, _, _ = world
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    frozen, drifted = (fitted(world, batchnorm=kind) for kind in ("frozen", "drift"))
    assert frozen.network is None
    after = dict(drifted.network.named_buffers())
    assert any(not torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert torch.equal(drifted.network.fc.weight, drifted.head.weight)
    # what was scored on validation are the features of the kept epoch's statistics
    with torch.inference_mode():
        features = feature_function(drifted.network, TRANSFORM, CPU)(pixels["val"])
    moved = replace(splits["val"], features=features.clone())
    best = drifted.history[drifted.history["kept"]].iloc[0]
    assert worst_group(drifted.head, moved) == pytest.approx(best["val_worst_group"])
    assert (features - splits["val"].features).abs().max() > 0.1


def test_drift_normalizes_by_the_batch_as_a_network_in_training_does(world):
    network, splits, pixels, _masks, erm = world
    n = len(splits["train"].y)
    result = fitted(world, batchnorm="drift", batch_size=n, epochs=1, quantile=0.0, alpha=0.0, seed=2)
    g = torch.Generator().manual_seed(2)
    weight = torch.nn.init.xavier_uniform_(torch.empty(2, 128), generator=g).requires_grad_()
    order = torch.randperm(n, generator=g)
    theirs = copy.deepcopy(network).train()
    x = prepare(pixels["train"].take(order), TRANSFORM)
    loss = cross_entropy(erm.logits(splits["train"].features), splits["train"].y, reduction="none")
    (place,) = (loss[order] <= loss.min()).nonzero().T
    masked, composed = compose(x[place], LEFT.expand(len(place), 16, 16), torch.tensor([0]), x.mean((0, 2, 3)))
    with torch.no_grad():
        features = theirs.features(torch.cat([x, masked, composed]))
    cross_entropy(features[:n] @ weight.T, splits["train"].y[order]).backward()
    for name, buffer in result.network.named_buffers():
        torch.testing.assert_close(buffer, dict(theirs.named_buffers())[name], atol=1e-5, rtol=1e-4)
    # Adam's first step goes by the sign of the gradient
    step = 5e-3 * weight.grad / (weight.grad.abs() + 1e-8)
    torch.testing.assert_close(result.head.weight, (weight - step).detach(), atol=2e-4, rtol=1e-3)


def test_wrong_input_is_named(world):
    _, splits, _, _, _ = world
    with pytest.raises(ValueError, match="DaC was given the test split of halves"):
        fitted(world, splits={"train": splits["test"]})
    with pytest.raises(ValueError, match=r"drift moves the features, which standardized ones cannot follow"):
        fitted(world, batchnorm="drift", standardization=fit_standardization(splits["train"].features))
    with pytest.raises(ValueError, match="drift was asked for, but this backbone has no BatchNorm"):
        fitted(world, network=Network(torch.nn.Sequential(torch.nn.Linear(1, 2)), "0", 2), batchnorm="drift")
    broken = splits["train"].features.clone()
    broken[3] = torch.nan
    with pytest.raises(ValueError, match=r"DaC: the loss is nan in epoch 1; lower lr"):
        fitted(world, splits={"train": replace(splits["train"], features=broken)}, epochs=1, quantile=1.0)


def test_drift_leaves_out_a_last_batch_of_one_image(world):
    """At 16 pixels the last map is of one place, of which BatchNorm cannot normalize a single image."""
    _, splits, _, _, _ = world
    assert len(splits["train"].y) % 131 == 1
    history = fitted(world, batchnorm="drift", batch_size=131, epochs=1, quantile=0.0).history
    assert np.isfinite(history["loss"]).all()
    # at q = 0 one image is easy, whose partner is itself, the only one of its class
    assert history["selected"].tolist() == pytest.approx([1 / 131], abs=1e-2)
    assert fitted(world, batch_size=12, epochs=1, quantile=0.0).history["composed_loss"].notna().all()
    plain = fitted(world, batch_size=12, epochs=1, alpha=0.0).history
    assert plain["loss"].equals(plain["batch_loss"])


def test_several_seeds_are_those_of_one_seed_each(world):
    """And where BatchNorm drifts, each starts from the network as it was given."""
    together = all_fitted(world, (3, 4), batchnorm="drift", epochs=2)
    assert (together.seeds, len(together.networks)) == ((3, 4), 2)
    assert together.chosen_by == "the epoch with the best validation worst group, then average"
    assert all_fitted(world, rule="average", epochs=1).chosen_by == "the epoch with the best validation average"
    assert together.remarks == ("scored on features of its own, since BatchNorm's statistics drifted",) * 2
    alone, history = fitted(world, 4, batchnorm="drift", epochs=2), together.tables["history"]
    assert torch.equal(together.head.weight[1], alone.head.weight)
    assert not torch.equal(together.head.weight[0], alone.head.weight)
    assert history[history["seed"] == 4].reset_index(drop=True).equals(alone.history)
