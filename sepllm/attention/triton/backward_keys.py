"""The kernel for the gradients of keys and values: a tile of keys against all queries that see it.

Launched twice: over all keys for the queries nearby, then over the marked keys for the queries far away, which
adds to what the first launch wrote. Each key belongs to one program of a launch, so nothing is atomic.
"""

import triton
import triton.language as tl

from sepllm.attention.triton.pieces import hide, load_rows, row_of, store_rows


@triton.jit
def backward_keys_kernel(
    query,
    key,
    value,
    lse,
    delta,
    grad_out,
    grad_key,
    grad_value,
    slopes,
    places,
    packed,
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
    grad_out_stride_b,
    grad_out_stride_h,
    grad_out_stride_s,
    grad_key_stride_b,
    grad_key_stride_h,
    grad_key_stride_s,
    grad_value_stride_b,
    grad_value_stride_h,
    grad_value_stride_s,
    places_stride_b,
    scale,
    true_scale,
    kv_heads,
    group,
    seq,
    queries,
    window,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    FAR: tl.constexpr,
    HAS_ENDS: tl.constexpr,
    ALIBI: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Grid: tiles of keys within batch x kv_heads. scale and slopes contain log2(e), true_scale does not."""
    tiles = tl.cdiv(seq, BLOCK_K)
    batch_head = (tl.program_id(0) // tiles).to(tl.int64)
    batch = batch_head // kv_heads
    kv_head = batch_head % kv_heads
    key += batch * key_stride_b + kv_head * key_stride_h
    value += batch * value_stride_b + kv_head * value_stride_h
    grad_key += batch * grad_key_stride_b + kv_head * grad_key_stride_h
    grad_value += batch * grad_value_stride_b + kv_head * grad_value_stride_h
    packed += batch * seq
    places += batch * places_stride_b

    offset = seq - queries
    index = tl.program_id(0) % tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    # Keys of this tile, and which queries see each one: from `begin` to before `end`.
    if FAR:
        keys = tl.load(packed + index, mask=index < seq, other=seq)
        begin = keys + window
        end = tl.full([BLOCK_K], 0, tl.int32) + seq
        if HAS_ENDS:
            end = tl.load(far_end + batch * seq + index, mask=index < seq, other=0)
    else:
        keys = index
        begin = keys
        end = keys + window
        if HAS_ENDS:
            end = tl.minimum(end, tl.load(near_end + batch * seq + index, mask=index < seq, other=0))
    valid = keys < seq
    row_from = tl.maximum(tl.min(begin, 0) - offset, 0)
    row_to = tl.minimum(tl.max(tl.where(valid, end, 0), 0), seq) - offset
    # A launch over marked keys must be long enough for the fullest row: most programs have nothing to do.
    if (row_from < row_to) | (not FAR):
        wide_keys = keys.to(tl.int64)
        k = load_rows(key, wide_keys, key_stride_s, valid, DIM, BLOCK_D, False)
        v = load_rows(value, wide_keys, value_stride_s, valid, DIM, BLOCK_D, False)
        key_place = tl.zeros([BLOCK_K], tl.float32)
        if ALIBI:
            key_place = tl.load(places + keys, mask=valid, other=0.0)
        d_key = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        d_value = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
        for member in range(0, group):
            head = kv_head * group + member
            line = (batch * kv_heads * group + head) * queries
            head_query = query + batch * query_stride_b + head * query_stride_h
            head_grad = grad_out + batch * grad_out_stride_b + head * grad_out_stride_h
            slope = 0.0
            if ALIBI:
                slope = tl.load(slopes + head)
            for row in range(row_from, row_to, BLOCK_Q):
                rows = row + tl.arange(0, BLOCK_Q)
                at = rows + offset
                visible = at[None, :] >= begin[:, None]
                if HAS_ENDS or not FAR:
                    visible = visible & (at[None, :] < end[:, None])
                d_key, d_value = _add_tile(
                    head_query,
                    query_stride_s,
                    head_grad,
                    grad_out_stride_s,
                    lse + line,
                    delta + line,
                    row,
                    rows,
                    queries,
                    places + offset,
                    k,
                    v,
                    key_place,
                    visible,
                    slope,
                    scale,
                    d_key,
                    d_value,
                    DIM,
                    BLOCK_D,
                    ALIBI,
                    PRECISION,
                )
        store_rows(grad_key, wide_keys, grad_key_stride_s, valid, d_key * true_scale, DIM, BLOCK_D, FAR)
        store_rows(grad_value, wide_keys, grad_value_stride_s, valid, d_value, DIM, BLOCK_D, FAR)


@triton.jit
def _add_tile(
    query,
    query_stride_s,
    grad_out,
    grad_out_stride_s,
    lse,
    delta,
    row,
    rows,
    queries,
    places,
    k,
    v,
    key_place,
    visible,
    slope,
    scale,
    d_key,
    d_value,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ALIBI: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One more tile of queries into the gradients of a tile of keys. Everything is [keys, queries]."""
    valid = rows < queries
    near = rows - row
    q = load_rows(row_of(query, row, query_stride_s), near, query_stride_s, valid, DIM, BLOCK_D, False)
    norm = tl.load(lse + rows, mask=valid, other=1.0e30)  # so that rows past the end have probability 0
    scores = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
    if ALIBI:
        place = tl.load(places + rows, mask=valid, other=0.0)
        scores += slope * (key_place[:, None] - place[None, :])
    probs = tl.exp2(hide(scores, visible) - norm[None, :])
    d_out = load_rows(row_of(grad_out, row, grad_out_stride_s), near, grad_out_stride_s, valid, DIM, BLOCK_D, False)
    d_value = tl.dot(probs.to(d_out.dtype), d_out, d_value, input_precision=PRECISION)
    mean = tl.load(delta + rows, mask=valid, other=0.0)
    d_scores = probs * (tl.dot(v, tl.trans(d_out), input_precision=PRECISION) - mean[None, :])
    d_key = tl.dot(d_scores.to(q.dtype), q, d_key, input_precision=PRECISION)
    return d_key, d_value
