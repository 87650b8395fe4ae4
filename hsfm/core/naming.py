"""Errors of libraries over given data, as errors that name the data."""

from collections.abc import Iterator
from contextlib import contextmanager

_NUMERIC = ("LinAlgError", "_LinAlgError", "OutOfMemoryError")  # of numpy, scipy and torch, which need not be imported


@contextmanager
def naming(source: str) -> Iterator[None]:
    """Raise what a library raises within, over numbers that it cannot work on or for want of memory, as ValueError.

    source: where the data came from, as its user knows it. An error of hsfm's own names what it is about and passes as
    it is, and so do kinds that a mistake in code has (TypeError, KeyError, RuntimeError, ...).
    """
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        module = "" if trace is None else trace.tb_frame.f_globals.get("__name__") or ""
        # a library's own code in C has no frame; hsfm raises errors of one of these kinds alone
        foreign = module.partition(".")[0] not in ("hsfm", "__main__") and isinstance(error, ValueError)
        numeric = isinstance(error, ArithmeticError | MemoryError) or type(error).__name__ in _NUMERIC
        if not (foreign or numeric):
            raise
        said = " ".join(str(error).split()) or "no more is said"
        raise ValueError(f"{source}: {type(error).__name__} in {module}: {said}") from error
