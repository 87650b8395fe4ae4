"""One epoch of HSFM for two classes on the CPU, as a single function that numba compiles.

docs/explanation/method.md derives the meta-gradient; `meta_gradient.py` has it in torch, with the same letters. Here a
trial goes through all steps of an epoch before the next begins, so that what it edits stays in the processor's caches,
and no step waits for the dispatch of a hundred small operations. numba keeps the machine code beside this file or in
the user's cache folder. `compiled.py` calls it; where numba is missing nothing does.

Of the two rows of a head only the difference w = W[1] - W[0] matters; both move by opposite amounts. Loops are written
out where numpy has an expression: numba takes three times as long to compile those.
"""

import math
from typing import no_type_check

import numpy as np

try:
    from numba import njit
except ImportError:  # the functions stay Python then, and are never called
    njit = None

BLOCK = 2**16  # bytes of rows that are read twice in a row: they stay in the first two caches

# Without these sums keep their order and loops do not become vector instructions. Infinities and NaN, by which a
# trial that diverges is known, stay what they are. A division by zero raises nothing.
_HOW = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}
_compile = (lambda function: function) if njit is None else njit(**_HOW)
_compile_and_keep = _compile if njit is None else njit(**_HOW, cache=True)


@_compile_and_keep
@no_type_check
def epoch(
    support, labels, drawn, first, second, weight, bias, head_first, head_second, x, x_labels, x_weights, hard,
    inner_lr, outer_lr, inner_steps, support_steps, epochs_before, clip_norm, longest, first_order, dual, primal,
    losses,
):  # fmt: skip
    """Edit the supports of r trials and adapt their heads, all in place.

    support, first, second: [r n d], features and Adam's moments; drawn: the features at the start; labels: [r n], 0 or
    1. weight: [r 2 d], bias: [r 2]; head_first, head_second: [r d+1], Adam's moments, of the bias last. x: [v d],
    x_labels: [v], validation, x_weights: [v], of its rows in the outer loss; hard: [r m], those in it. inner_lr,
    outer_lr: [r]. epochs_before: finished ones. longest: edit of a row. dual, primal: the form is True, the other None,
    and numba leaves out the code that stands under None. losses: [r], becomes the mean outer loss of the epoch's steps.
    """
    r, n, d = support.shape
    gradient = np.empty((n, d), support.dtype)
    for i in range(r):
        w, b = _difference(weight[i], bias[i])
        step, total, outer = support.dtype.type(2 * inner_lr[i] / n), 0.0, (x, x_labels, x_weights, hard[i])
        for k in range(support_steps):
            solved = (support[i], labels[i], w, b, outer, step, inner_steps, first_order, gradient)
            if dual is not None:
                loss, squares = _dual(*solved)
            if primal is not None:
                loss, squares = _primal(*solved)
            total += loss
            factor = min(1.0, clip_norm / (math.sqrt(squares) + 1e-6))
            _edit(
                support[i], drawn[i], gradient, factor, first[i], second[i],
                outer_lr[i], epochs_before * support_steps + k + 1, longest,
            )  # fmt: skip
        losses[i] = total / support_steps if support_steps > 0 else np.nan
        for k in range(inner_steps):
            _adapt(
                support[i], labels[i], weight[i], bias[i], head_first[i], head_second[i],
                inner_lr[i], epochs_before * inner_steps + k + 1,
            )  # fmt: skip


@_compile
@no_type_check
def _dual(h, y, w, b, outer, step, steps, first_order, gradient):
    """Outer loss, and into `gradient` its derivative in the support h, with the sum of that one's squares.

    w, b: of the difference; step: s.
    """
    f = h.dtype.type
    n, d = h.shape
    rows, kernel = np.arange(n), _kernel(h)
    slopes, moves, total = np.empty((steps, n), h.dtype), np.empty((steps, n), h.dtype), np.zeros(n, h.dtype)
    logits = np.empty(n, h.dtype)
    _logits(h, rows, 0, n, w, b, logits)
    for t in range(steps):
        for i in range(n):
            p = _sigmoid(logits[i])
            slopes[t, i], moves[t, i] = p * (f(1) - p), (y[i] - p) * step  # moves: - s R_t
            total[i] += moves[t, i]
        if t + 1 < steps:  # Z_T enters nothing
            _combine(kernel, rows, 0, n, moves[t], logits)
    right, adapted, bias = np.empty((2, d), h.dtype), np.empty(d, h.dtype), b  # right: w, and V
    for c in range(d):
        right[0, c], adapted[c] = w[c], w[c]
    for i in range(n):
        bias += total[i]
    _combine(h, rows, 0, n, total, adapted)
    loss, by_bias = _outer(adapted, bias, outer, right[1])

    through, incoming = np.empty(n, h.dtype), np.empty(n, h.dtype)
    sensitivity, by_kernel = np.zeros(n, h.dtype), np.zeros((n, n), h.dtype)  # A_{t+1}, D
    _logits(h, rows, 0, n, right[1], by_bias, through)
    for t in range(steps - 1, -1, -1):
        for i in range(n):
            incoming[i] = through[i]
        if not first_order and t + 1 < steps:
            _combine(kernel, rows, 0, n, sensitivity, incoming)
        for i in range(n):
            sensitivity[i] -= step * slopes[t, i] * incoming[i]
        for i in range(n if t > 0 else 0):
            a = sensitivity[i]
            for j in range(n):
                by_kernel[i, j] += a * moves[t - 1, j]
    if not first_order:
        for i in range(n):
            for j in range(i + 1):
                both = by_kernel[i, j] + by_kernel[j, i]
                by_kernel[i, j], by_kernel[j, i] = both, both
    left = np.empty((n, 2), h.dtype)
    for i in range(n):
        left[i, 0], left[i, 1] = sensitivity[i], total[i]
    _product(left, right, gradient, False)
    return loss, _product(by_kernel, h, gradient, True)


@_compile
@no_type_check
def _primal(h, y, w, b, outer, step, steps, first_order, gradient):
    """As `_dual`; of the rows, blocks that stay in a cache are read twice."""
    f = h.dtype.type
    n, d = h.shape
    rows, size = np.arange(n), _block(h)
    slopes, moves = np.empty((steps, n), h.dtype), np.empty(n, h.dtype)
    left, right = np.empty((n, 2 * steps), h.dtype), np.empty((2 * steps, d), h.dtype)
    now, bias = w.copy(), b
    for t in range(steps):
        at, before = right[2 * t + 1], bias
        for c in range(d):
            at[c] = now[c]
        for start in range(0, n, size):
            stop = min(start + size, n)
            _logits(h, rows, start, stop, at, before, moves)
            for i in range(start, stop):
                p = _sigmoid(moves[i])
                slopes[t, i], moves[i] = p * (f(1) - p), (y[i] - p) * step  # moves: - s R_t
                left[i, 2 * t] = moves[i]
                bias += moves[i]
            _combine(h, rows, start, stop, moves, now)
    by_weight = np.empty(d, h.dtype)
    loss, by_bias = _outer(now, bias, outer, by_weight)
    for t in range(steps - 1, -1, -1):
        at, before = right[2 * t], by_bias
        for c in range(d):
            at[c] = by_weight[c]
        for start in range(0, n, size):
            stop = min(start + size, n)
            _logits(h, rows, start, stop, at, before, moves)
            for i in range(start, stop):
                moves[i] *= -step * slopes[t, i]
                left[i, 2 * t + 1] = moves[i]
                if not first_order:
                    by_bias += moves[i]
            if not first_order:
                _combine(h, rows, start, stop, moves, by_weight)
    return loss, _product(left, right, gradient, False)


@_compile
@no_type_check
def _outer(w, b, outer, by_weight):
    """Weighted loss on the hard rows, natural log, its derivative in b, and into `by_weight` that in w."""
    x, x_y, x_w, hard = outer
    f, m, size = x.dtype.type, len(hard), _block(x)
    logits, loss, by_bias = np.empty(m, x.dtype), 0.0, f(0)
    for c in range(len(by_weight)):
        by_weight[c] = f(0)
    for start in range(0, m, size):
        stop = min(start + size, m)
        _logits(x, hard, start, stop, w, b, logits)
        for j in range(start, stop):
            z, label = logits[j], x_y[hard[j]]
            loss += (max(z, f(0)) - z * label + math.log1p(math.exp(-abs(z)))) * x_w[hard[j]]
            logits[j] = (_sigmoid(z) - label) * x_w[hard[j]]
            by_bias += logits[j]
        _combine(x, hard, start, stop, logits, by_weight)
    return loss, by_bias


@_compile
@no_type_check
def _edit(h, drawn, gradient, factor, first, second, lr, t, longest):
    """Take step t of Adam on a whole support, by its gradient times a factor, and shorten edits that are too long."""
    f = h.dtype.type
    n, d = h.shape
    for i in range(n):
        for c in range(d):
            gradient[i, c] *= f(factor)
        _adam(h[i], gradient[i], first[i], second[i], lr, t)
        if longest < np.inf:
            square = f(0)
            for c in range(d):
                edit = h[i, c] - drawn[i, c]
                square += edit * edit
            if square > f(longest * longest):
                shorter = f(longest) / np.sqrt(square)
                for c in range(d):
                    h[i, c] = drawn[i, c] + (h[i, c] - drawn[i, c]) * shorter


@_compile
@no_type_check
def _adapt(h, y, weight, bias, first, second, lr, t):
    """Step t of Adam on the head, for the mean cross-entropy on the support."""
    f = h.dtype.type
    n, d = h.shape
    w, b = _difference(weight, bias)
    rows, size = np.arange(n), _block(h)
    logits, moves, by_head = np.empty(n, h.dtype), np.zeros(d + 1, h.dtype), np.zeros(d + 1, h.dtype)
    for start in range(0, n, size):
        stop = min(start + size, n)
        _logits(h, rows, start, stop, w, b, logits)
        for i in range(start, stop):
            logits[i] = (_sigmoid(logits[i]) - y[i]) / f(n)
            by_head[d] += logits[i]
        _combine(h, rows, start, stop, logits, by_head[:d])
    _adam(moves, by_head, first, second, lr, t)
    for c in range(d):
        weight[0, c] -= moves[c]
        weight[1, c] += moves[c]
    bias[0] -= moves[d]
    bias[1] += moves[d]


@_compile
@no_type_check
def _adam(values, gradient, first, second, lr, t):
    """Step t, from 1, of torch's Adam on vectors, in its order of operations."""
    f = values.dtype.type
    size = f(lr / (1 - 0.9**t))
    root, tiny, one, two, keep = f(math.sqrt(1 - 0.999**t)), f(1e-8), f(1 - 0.9), f(1 - 0.999), f(0.999)
    for c in range(len(values)):
        g = gradient[c]
        first[c] += one * (g - first[c])
        second[c] = keep * second[c] + two * g * g
        values[c] -= size * first[c] / (np.sqrt(second[c]) / root + tiny)


@_compile
@no_type_check
def _difference(weight, bias):
    w = np.empty(weight.shape[1], weight.dtype)
    for c in range(len(w)):
        w[c] = weight[1, c] - weight[0, c]
    return w, bias[1] - bias[0]


@_compile
@no_type_check
def _block(x):
    """Rows of x that are taken together, a multiple of four."""
    return max(4, BLOCK // (x.shape[1] * x.itemsize) // 4 * 4)


@_compile
@no_type_check
def _sigmoid(z):
    one = type(z)(1)
    return one / (one + math.exp(-z))


@_compile
@no_type_check
def _square(values):
    total = values.dtype.type(0)
    for c in range(len(values)):
        total += values[c] * values[c]
    return total


@_compile
@no_type_check
def _logits(x, rows, start, stop, w, b, out):
    """out[i] = x[rows[i]] . w + b for i from start to stop: four rows at a time, which share the reads of w."""
    d, last = len(w), stop - 1
    for i in range(start, stop, 4):
        x0, x1, x2, x3 = x[rows[i]], x[rows[min(i + 1, last)]], x[rows[min(i + 2, last)]], x[rows[min(i + 3, last)]]
        z0, z1, z2, z3 = b, b, b, b
        for c in range(d):
            z0 += x0[c] * w[c]
            z1 += x1[c] * w[c]
            z2 += x2[c] * w[c]
            z3 += x3[c] * w[c]
        out[min(i + 3, last)], out[min(i + 2, last)], out[min(i + 1, last)], out[i] = z3, z2, z1, z0


@_compile
@no_type_check
def _combine(x, rows, start, stop, coefficients, out):
    """Add coefficients[i] x[rows[i]] for i from start to stop to `out`: four rows share its reads and writes."""
    f, last = x.dtype.type, stop - 1
    for i in range(start, stop, 4):
        x0, x1, x2, x3 = x[rows[i]], x[rows[min(i + 1, last)]], x[rows[min(i + 2, last)]], x[rows[min(i + 3, last)]]
        a0 = coefficients[i]
        a1 = coefficients[i + 1] if i + 1 < stop else f(0)
        a2 = coefficients[i + 2] if i + 2 < stop else f(0)
        a3 = coefficients[i + 3] if i + 3 < stop else f(0)
        for c in range(len(out)):
            out[c] += a0 * x0[c] + a1 * x1[c] + a2 * x2[c] + a3 * x3[c]


@_compile
@no_type_check
def _product(left, right, out, add):
    """left right into or, where asked to, on top of `out`, two rows at a time; the sum of squares of the result."""
    f, (n, q), last = out.dtype.type, left.shape, left.shape[1] - 1
    columns, squares = np.arange(q), 0.0
    for i in range(0, n, 2):
        first, second = out[i], out[min(i + 1, n - 1)]
        for c in range(0 if add else len(first)):
            first[c], second[c] = f(0), f(0)
        if i + 1 == n:
            _combine(right, columns, 0, q, left[i], first)
            squares += _square(first)
            break
        for j in range(0, q, 4):
            j1, j2, j3 = min(j + 1, last), min(j + 2, last), min(j + 3, last)
            x0, x1, x2, x3 = right[j], right[j1], right[j2], right[j3]
            a0, b0 = left[i, j], left[i + 1, j]
            a1, b1 = (left[i, j1], left[i + 1, j1]) if j + 1 < q else (f(0), f(0))
            a2, b2 = (left[i, j2], left[i + 1, j2]) if j + 2 < q else (f(0), f(0))
            a3, b3 = (left[i, j3], left[i + 1, j3]) if j + 3 < q else (f(0), f(0))
            for c in range(len(first)):
                u0, u1, u2, u3 = x0[c], x1[c], x2[c], x3[c]
                first[c] += a0 * u0 + a1 * u1 + a2 * u2 + a3 * u3
                second[c] += b0 * u0 + b1 * u1 + b2 * u2 + b3 * u3
        squares += _square(first) + _square(second)
    return squares


@_compile
@no_type_check
def _kernel(h):
    """H H' + 1, [n n]: four rows by two at a time, one half, the other being the same."""
    f = h.dtype.type
    n, d = h.shape
    out = np.empty((n, n), h.dtype)
    last = n - 1
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, last), min(i + 2, last), min(i + 3, last)
        x0, x1, x2, x3 = h[i], h[i1], h[i2], h[i3]
        for j in range(i, n, 2):
            j1 = min(j + 1, last)
            y0, y1 = h[j], h[j1]
            s0, s1, s2, s3, t0, t1, t2, t3 = f(1), f(1), f(1), f(1), f(1), f(1), f(1), f(1)
            for c in range(d):
                u, v = y0[c], y1[c]
                s0 += x0[c] * u
                s1 += x1[c] * u
                s2 += x2[c] * u
                s3 += x3[c] * u
                t0 += x0[c] * v
                t1 += x1[c] * v
                t2 += x2[c] * v
                t3 += x3[c] * v
            out[i, j], out[i1, j], out[i2, j], out[i3, j] = s0, s1, s2, s3
            out[i, j1], out[i1, j1], out[i2, j1], out[i3, j1] = t0, t1, t2, t3
    for i in range(n):
        for j in range(i):
            out[i, j] = out[j, i]
    return out
