"""The kernel for the gradient of the queries: the loops of the forward kernel, with the probabilities repeated."""

import triton
import triton.language as tl

from sepllm.attention.triton.pieces import hide, load_rows, row_of, store_rows


@triton.jit
def backward_query_kernel(
    query,
    key,
    value,
    out,
    lse,
    grad_out,
    grad_query,
    delta,
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
    grad_out_stride_b,
    grad_out_stride_h,
    grad_out_stride_s,
    grad_query_stride_b,
    grad_query_stride_h,
    grad_query_stride_s,
    places_stride_b,
    scale,
    true_scale,
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
    """Grid: tiles of queries within batch x heads. Also writes delta = sum of out x grad_out, for the keys' kernel.

    scale and slopes contain log2(e), true_scale does not.
    """
    tiles = tl.cdiv(queries, BLOCK_Q)
    tile = tiles - 1 - tl.program_id(0) % tiles
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

    offset = seq - queries
    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    valid = rows < queries
    at = rows + offset
    wide_rows = rows.to(tl.int64)
    query += batch * query_stride_b + head * query_stride_h
    out += batch * out_stride_b + head * out_stride_h
    grad_out += batch * grad_out_stride_b + head * grad_out_stride_h
    q = load_rows(query, wide_rows, query_stride_s, valid, DIM, BLOCK_D, False)
    d_out = load_rows(grad_out, wide_rows, grad_out_stride_s, valid, DIM, BLOCK_D, False)
    result = load_rows(out, wide_rows, out_stride_s, valid, DIM, BLOCK_D, False)
    mean = tl.sum(result.to(tl.float32) * d_out.to(tl.float32), 1)
    line = batch_head * queries + rows
    tl.store(delta + line, mean, mask=valid)
    norm = tl.load(lse + line, mask=valid, other=1.0e30)  # rows past the end: probability 0
    slope = 0.0
    place = tl.zeros([BLOCK_Q], tl.float32)
    if ALIBI:
        slope = tl.load(slopes + head)
        place = tl.load(places + at, mask=valid, other=0.0)

    first = tile * BLOCK_Q + offset
    last = tl.minimum(first + BLOCK_Q, seq) - 1
    near_from = tl.maximum(first - window + 1, 0)
    far_from = 0
    far_all = tl.load(before + near_from)
    far_to = tl.load(before + tl.maximum(last - window + 1, 0))
    if HAS_ENDS:
        begin = tl.load(start + batch * seq + first)
        near_from = tl.maximum(near_from, begin)
        far_from = tl.load(before + begin)
        far_all = tl.maximum(far_all, far_from)
    staircase = far_from + (far_all - far_from) // BLOCK_K * BLOCK_K

    columns = tl.arange(0, BLOCK_K)
    d_query = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)

    for index in range(far_from, staircase, BLOCK_K):
        keys = tl.load(packed + index + columns)
        wide = keys.to(tl.int64)
        k = load_rows(key, wide, key_stride_s, keys < seq, DIM, BLOCK_D, True)
        v = load_rows(value, wide, value_stride_s, keys < seq, DIM, BLOCK_D, True)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys)[None, :] - place[:, None])
        if HAS_ENDS:
            scores = hide(scores, at[:, None] < tl.load(far_end + index + columns)[None, :])
        d_query = _add_tile(scores, k, v, d_out, norm, mean, d_query, PRECISION)

    for index in range(staircase, far_to, BLOCK_K):
        keys = tl.load(packed + index + columns, mask=index + columns < seq, other=seq)
        wide = keys.to(tl.int64)
        k = load_rows(key, wide, key_stride_s, keys < seq, DIM, BLOCK_D, False)
        v = load_rows(value, wide, value_stride_s, keys < seq, DIM, BLOCK_D, False)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys, mask=keys < seq, other=0.0)[None, :] - place[:, None])
        visible = at[:, None] >= (keys + window)[None, :]
        if HAS_ENDS:
            end = tl.load(far_end + index + columns, mask=index + columns < seq, other=0)
            visible = visible & (at[:, None] < end[None, :])
        d_query = _add_tile(hide(scores, visible), k, v, d_out, norm, mean, d_query, PRECISION)

    for index in range(near_from, last + 1, BLOCK_K):
        keys = index + columns
        k = load_rows(row_of(key, index, key_stride_s), columns, key_stride_s, keys < seq, DIM, BLOCK_D, False)
        v = load_rows(row_of(value, index, value_stride_s), columns, value_stride_s, keys < seq, DIM, BLOCK_D, False)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        if ALIBI:
            scores += slope * (tl.load(places + keys, mask=keys < seq, other=0.0)[None, :] - place[:, None])
        distance = at[:, None] - keys[None, :]
        visible = (distance >= 0) & (distance < window)
        if HAS_ENDS:
            end = tl.load(near_end + keys, mask=keys < seq, other=0)
            visible = visible & (at[:, None] < end[None, :])
        d_query = _add_tile(hide(scores, visible), k, v, d_out, norm, mean, d_query, PRECISION)

    grad_query += batch * grad_query_stride_b + head * grad_query_stride_h
    store_rows(grad_query, wide_rows, grad_query_stride_s, valid, d_query * true_scale, DIM, BLOCK_D, False)


@triton.jit
def _add_tile(scores, k, v, d_out, norm, mean, d_query, PRECISION: tl.constexpr):
    probs = tl.exp2(scores - norm[:, None])  # exactly 0 where hidden
    d_scores = probs * (tl.dot(d_out, tl.trans(v), input_precision=PRECISION) - mean[:, None])
    return tl.dot(d_scores.to(k.dtype), k, d_query, input_precision=PRECISION)
