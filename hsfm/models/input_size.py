"""Input sizes that a network takes, told by one black image before any long work."""

from collections.abc import Sequence
from textwrap import shorten

import torch

from hsfm.data.table import ImageTable
from hsfm.data.transforms import AugmentationSettings, TransformSettings, common_shape
from hsfm.models.backbone import Network

USUAL = ((224, 224), (256, 256), (299, 299), (336, 336), (384, 384), (512, 512))


def check_input_size(
    network: Network,
    table: ImageTable,
    transform: TransformSettings,
    augmentation: AugmentationSettings | None = None,
) -> None:
    """Raise ValueError where images of the table differ in size after the transform, or the network does not take it.

    augmentation: of a training, whose random resized crop gives a size of its own.
    """
    sizes = table.rows[["height", "width"]].drop_duplicates().to_numpy(int).tolist()
    check_takes(network, common_shape(sizes, transform), "transform")
    if augmentation is not None and augmentation.random_resized_crop is not None:
        check_takes(network, augmentation.random_resized_crop.size, "augmentation/random_resized_crop/size")


def check_takes(network: Network, size: Sequence[int], where: str) -> None:
    """Raise ValueError naming the setting `where`, the size that it gives and one that the network takes, if any."""
    reason = _refusal(network, size)
    if reason is None:
        return
    sizes = dict.fromkeys([*_own_sizes(network.body), *USUAL])
    taken = next((other for other in sizes if _refusal(network, other) is None), None)
    advice = f"; it takes {taken[0]} x {taken[1]}" if taken else ""
    found = f"gives {size[0]} x {size[1]} pixels (height x width), which the network does not take ({reason})"
    raise ValueError(f"{where}: {found}{advice}")


def _refusal(network: Network, size: Sequence[int]) -> str | None:
    """Why the network does not take images of this size; None where it does."""
    place, training = network.fc.weight.device, network.training
    try:
        with torch.no_grad():
            network.eval().features(torch.zeros(1, 3, *size, device=place))
    except Exception as error:  # each architecture fails in a way of its own, by an assertion for instance
        return shorten(str(error) or type(error).__name__, 200)
    finally:
        network.train(training)
    return None


def _own_sizes(body: torch.nn.Module) -> list[tuple[int, int]]:
    """Heights and widths that an architecture names: of torchvision's, timm's and open_clip's models."""
    named = [getattr(part, "image_size", None) for part in (body, getattr(body, "visual", None))]
    named.append((getattr(body, "pretrained_cfg", None) or {}).get("input_size", (None,))[-2:])
    pairs = [(size, size) if isinstance(size, int) else size for size in named if size]
    return [tuple(map(int, pair)) for pair in pairs if len(pair) == 2]
