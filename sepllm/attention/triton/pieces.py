"""Parts that the kernels share: rows in and out, scores, visibility. Scores are in powers of two."""

import triton
import triton.language as tl


@triton.jit
def row_of(base, row, stride):
    """Where a row begins. The interpreter hands loop counters over as plain ints, hence the cast."""
    return base + tl.cast(row, tl.int64) * stride


@triton.jit
def load_rows(base, rows, stride, valid, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ALL: tl.constexpr):
    """[len(rows), BLOCK_D] of a matrix with contiguous columns; zeros where a row is not valid. ALL: all are.

    rows: int64, or int32 when counted from a base nearby; 64 bits per row cost registers.
    """
    column = tl.arange(0, BLOCK_D)
    place = base + rows[:, None] * stride + column[None, :]
    if ALL and DIM == BLOCK_D:
        part = tl.load(place)
    elif ALL:
        part = tl.load(place, mask=column[None, :] < DIM, other=0.0)
    else:
        part = tl.load(place, mask=valid[:, None] & (column[None, :] < DIM), other=0.0)
    return part


@triton.jit
def store_rows(base, rows, stride, valid, part, DIM: tl.constexpr, BLOCK_D: tl.constexpr, ADD: tl.constexpr):
    """The reverse of load_rows. ADD: add to what is there; each row must occur once in the whole launch."""
    column = tl.arange(0, BLOCK_D)
    place = base + rows[:, None] * stride + column[None, :]
    keep = valid[:, None] & (column[None, :] < DIM)
    if ADD:
        part += tl.load(place, mask=keep, other=0.0).to(tl.float32)
    tl.store(place, part.to(base.dtype.element_ty), mask=keep)


@triton.jit
def hide(scores, visible):
    # Finite: a row of which nothing is visible yet must not meet infinity minus infinity.
    return tl.where(visible, scores, -1.0e30)
