"""The compiled epoch of HSFM on tensors."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


class CompiledEpoch:
    """`kernels.epoch` on tensors of r trials, whose supports and heads it edits in place; Adam's moments are its own.

    n support rows, d features, v rows of validation, m hard ones. row_weights: of a hard row, by its class. inner_lr,
    outer_lr: of every trial. longest: edit of a support row. Trials side by side go to as many threads as torch has.
    Raises ImportError without numba, whatever numba raises where it cannot compile, and RuntimeError where it may not
    or finds no folder to keep the result in.
    """

    def __init__(
        self, support: Float[Tensor, "r n d"], support_y: Int[Tensor, "r n"],
        weight: Float[Tensor, "r 2 d"], bias: Float[Tensor, "r 2"], x: Float[Tensor, "v d"], y: Int[Tensor, " v"],
        *, row_weights: Float[Tensor, " 2"], inner_lr: list[float], outer_lr: list[float],
        inner_steps: int, support_steps: int, clip_norm: float, longest: float | None, first_order: bool, form: str,
    ):  # fmt: skip
        import numba  # here, for those who have none and for the time that it takes

        if numba.config.DISABLE_JIT:
            raise RuntimeError("NUMBA_DISABLE_JIT is set")
        try:
            from hsfm.methods.hsfm import kernels
        except RuntimeError as error:  # of the decorator, with a path in it
            raise RuntimeError("no folder can keep what numba compiles; NUMBA_CACHE_DIR may name one") from error
        r, _, d = support.shape
        self._epoch, self._finished = kernels.epoch, 0
        self._losses = support.new_empty(r, dtype=torch.float64)
        moments = (torch.zeros_like(support), torch.zeros_like(support))
        of_head = (support.new_zeros(r, d + 1), support.new_zeros(r, d + 1))
        drawn = support if longest is None else support.clone()
        by_trial = (support, support_y.to(support), drawn, *moments, weight, bias, *of_head)
        self._by_trial = [tensor.numpy() for tensor in by_trial]
        self._shared = [tensor.contiguous().numpy() for tensor in (x, y.to(x), row_weights[y])]
        self._rates = np.array(inner_lr), np.array(outer_lr)
        self._steps = inner_steps, support_steps
        forms = (True, None) if form == "dual" else (None, True)
        self._how = clip_norm, np.inf if longest is None else longest, first_order, *forms
        threads = min(r, torch.get_num_threads())
        self._parts = [slice(part[0], part[-1] + 1) for part in np.array_split(np.arange(r), threads)]
        self._threads = ThreadPoolExecutor(threads) if threads > 1 else None
        self._train(slice(0, 0), np.empty((r, 1), np.int64))  # compiles, or reads what it once compiled

    def __call__(self, hard: Int[Tensor, "r m"]) -> Float[Tensor, " r"]:
        """Train for one epoch with these rows of x in the outer loss; its mean (natural log), NaN without any step."""
        for _ in (map if self._threads is None else self._threads.map)(
            lambda part: self._train(part, hard.numpy()), self._parts
        ):
            pass
        self._finished += 1
        return self._losses

    def _train(self, part: slice, hard: np.ndarray) -> None:
        own = [array[part] for array in self._by_trial]
        rates = [array[part] for array in self._rates]
        losses = self._losses.numpy()[part]
        self._epoch(*own, *self._shared, hard[part], *rates, *self._steps, self._finished, *self._how, losses)
