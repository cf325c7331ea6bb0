"""The forward kernel: a tile of queries against marked keys far away, then against nearby keys, one softmax."""

import triton
import triton.language as tl

from sepllm.attention.triton.pieces import hide, load_rows, row_of, store_rows


@triton.jit
def forward_kernel(
    query,
    key,
    value,
    out,
    lse,
    slopes,
    places,
    before,
    packed,
    start,
    near_end,
    far_end,
    query_stride_b,
    query_stride_h,
    query_stride_s,
    key_stride_b,
    key_stride_h,
    key_stride_s,
    value_stride_b,
    value_stride_h,
    value_stride_s,
    out_stride_b,
    out_stride_h,
    out_stride_s,
    places_stride_b,
    scale,
    heads,
    group,
    seq,
    queries,
    window,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    HAS_ENDS: tl.constexpr,
    ALIBI: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: tiles of queries within batch x heads. scale and slopes contain log2(e); lse is in powers of two."""
    tiles = tl.cdiv(queries, BLOCK_Q)
    tile = tiles - 1 - tl.program_id(0) % tiles  # the latest queries see most: first, to finish together
    batch_head = (tl.program_id(0) // tiles).to(tl.int64)
    batch = batch_head // heads
    head = batch_head % heads
    key += batch * key_stride_b + (head // group) * key_stride_h
    value += batch * value_stride_b + (head // group) * value_stride_h
    before += batch * (seq + 1)
    packed += batch * seq
    near_end += batch * seq
    far_end += batch * seq
    places += batch * places_stride_b

    offset = seq - queries  # place of the first query
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    valid = rows < queries
    at = rows + offset
    wide_rows = rows.to(tl.int64)
    q = load_rows(
        query + batch * query_stride_b + head * query_stride_h,
        wide_rows,
        query_stride_s,
        valid,
        DIM,
        BLOCK_D,
        False,
    )
    slope = 0.0
    place = tl.zeros([BLOCK_Q], tl.float32)
    if ALIBI:
        slope = tl.load(slopes + head)
        place = tl.load(places + at, mask=valid, other=0.0)

    first = tile * BLOCK_Q + offset
    last = tl.minimum(first + BLOCK_Q, seq) - 1
    near_from = tl.maximum(first - window + 1, 0)
    far_from = 0
    far_all = tl.load(before + near_from)  # marked keys before this one are beyond the window of every query
    far_to = tl.load(before + tl.maximum(last - window + 1, 0))
    if HAS_ENDS:
        begin = tl.load(start + batch * seq + first)
        near_from = tl.maximum(near_from, begin)
        far_from = tl.load(before + begin)
        far_all = tl.maximum(far_all, far_from)
    staircase = far_from + (far_all - far_from) // BLOCK_K * BLOCK_K

    columns = tl.arange(0, BLOCK_K)
    most = tl.full([BLOCK_Q], -1.0e30, tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    for index in range(far_from, staircase, BLOCK_K):
        keys = tl.load(packed + index + columns)
        wide = keys.to(tl.int64)
        k = load_rows(key, wide, key_stride_s, keys < seq, DIM, BLOCK_D, True)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys)[None, :] - place[:, None])
        if HAS_ENDS:
            scores = hide(scores, at[:, None] < tl.load(far_end + index + columns)[None, :])
        v = load_rows(value, wide, value_stride_s, keys < seq, DIM, BLOCK_D, True)
        most, total, acc = _absorb(scores, v, most, total, acc, PRECISION)

    for index in range(staircase, far_to, BLOCK_K):
        keys = tl.load(packed + index + columns, mask=index + columns < seq, other=seq)
        wide = keys.to(tl.int64)
        k = load_rows(key, wide, key_stride_s, keys < seq, DIM, BLOCK_D, False)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys, mask=keys < seq, other=0.0)[None, :] - place[:, None])
        visible = at[:, None] >= (keys + window)[None, :]
        if HAS_ENDS:
            end = tl.load(far_end + index + columns, mask=index + columns < seq, other=0)
            visible = visible & (at[:, None] < end[None, :])
        v = load_rows(value, wide, value_stride_s, keys < seq, DIM, BLOCK_D, False)
        most, total, acc = _absorb(hide(scores, visible), v, most, total, acc, PRECISION)

    for index in range(near_from, last + 1, BLOCK_K):
        keys = index + columns
        k = load_rows(row_of(key, index, key_stride_s), columns, key_stride_s, keys < seq, DIM, BLOCK_D, False)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys, mask=keys < seq, other=0.0)[None, :] - place[:, None])
        distance = at[:, None] - keys[None, :]
        visible = (distance >= 0) & (distance < window)
        if HAS_ENDS:
            end = tl.load(near_end + keys, mask=keys < seq, other=0)
            visible = visible & (at[:, None] < end[None, :])
        v = load_rows(row_of(value, index, value_stride_s), columns, value_stride_s, keys < seq, DIM, BLOCK_D, False)
        most, total, acc = _absorb(hide(scores, visible), v, most, total, acc, PRECISION)

    # Every query has seen itself by now: what a tile without a visible key left in total and acc was wiped then.
    store_rows(
        out + batch * out_stride_b + head * out_stride_h,
        wide_rows,
        out_stride_s,
        valid,
        acc / total[:, None],
        DIM,
        BLOCK_D,
        False,
    )
    tl.store(lse + batch_head * queries + rows, most + tl.log2(total), mask=valid)


@triton.jit
def _absorb(scores, v, most, total, acc, PRECISION: tl.constexpr):
    """One more tile of keys into the running softmax."""
    higher = tl.maximum(most, tl.max(scores, 1))
    probs = tl.exp2(scores - higher[:, None])
    shrink = tl.exp2(most - higher)
    acc = tl.dot(probs.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
    return higher, total * shrink + tl.sum(probs, 1), acc
