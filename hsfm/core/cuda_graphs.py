"""Repeat equal steps as a CUDA graph; on other devices, one by one."""

from collections.abc import Callable

import torch


def repeat(
    step: Callable[[], object], times: int, device: torch.device, after: Callable[[], object] = lambda: None
) -> None:
    """Call `step` `times` times, and `after` behind each.

    On CUDA the second call is recorded as a graph and replayed. Therefore `step` does the same operations on the same
    tensors each time, edits in place whatever outlives it, and never waits for the device.
    """
    if device.type == "cpu":
        for _ in range(times):
            step()
            after()
        return
    # a recording admits no library that sets itself up: the first call is an ordinary one, beside the current stream
    current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        step()
    current.wait_stream(side)
    after()
    if times == 1:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        step()
    for _ in range(times - 1):
        graph.replay()
        after()
