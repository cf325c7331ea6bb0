"""The exported model against the equations, and against itself with caches, padding, beams."""

import copy

import pytest
import torch

from tests.sepllm.hf.tiny_model import RULES, SEPARATORS, oracle_logits, tiny_config, tiny_model, tokens


@pytest.mark.parametrize("mode", list(RULES))
@pytest.mark.parametrize("parallel", [True, False])
def test_logits_follow_the_equations(mode: str, parallel: bool) -> None:
    model = tiny_model(mode, use_parallel_residual=parallel)
    ids = tokens(1, 30)
    with torch.no_grad():
        logits = model(ids).logits[0]
    expected = oracle_logits(model, ids[0].tolist())
    assert (logits - expected).abs().max() < 2e-5


def test_tied_head_is_the_embedding_and_follows_the_equations() -> None:
    model = tiny_model(tie_word_embeddings=True)
    assert model.embed_out.weight is model.gpt_neox.embed_in.weight
    ids = tokens(1, 20)
    assert (model(ids).logits[0] - oracle_logits(model, ids[0].tolist())).abs().max() < 2e-5


def test_the_rule_is_felt() -> None:
    ids = tokens(1, 40)
    sparse = tiny_model("sepllm")
    dense = tiny_model("full")
    dense.load_state_dict(sparse.state_dict())
    assert (sparse(ids).logits - dense(ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("mode", list(RULES))
@pytest.mark.parametrize("chunk", [1, 7])
def test_cached_forward_equals_uncached(mode: str, chunk: int) -> None:
    model, ids = tiny_model(mode), tokens(2, 33)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        output = model(ids[:, :11])
        pieces = [output.logits]
        for start in range(11, 33, chunk):
            output = model(ids[:, start : start + chunk], past_key_values=output.past_key_values)
            pieces.append(output.logits)
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-5)


def test_cache_operations_carry_the_ids_along() -> None:
    model, ids = tiny_model(), tokens(3, 24)
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        cache = model(ids[:, :20]).past_key_values
        cache.crop(-4)
        cache.reorder_cache(order)
        stepped = model(ids[order, 16:], past_key_values=cache).logits
        whole = model(ids, use_cache=False).logits
    assert torch.allclose(stepped, whole[order, 16:], atol=1e-5)


@pytest.mark.parametrize("mode", list(RULES))
def test_left_padded_rows_equal_rows_alone(mode: str) -> None:
    model = tiny_model(mode)
    rows = [tokens(1, length, seed=length)[0] for length in (4, 19, 30)]
    batch = torch.zeros(3, 30, dtype=torch.int64)
    mask = torch.zeros(3, 30, dtype=torch.int64)
    for number, row in enumerate(rows):
        batch[number, -len(row) :] = row
        mask[number, -len(row) :] = 1
    with torch.no_grad():
        logits = model(batch, attention_mask=mask).logits
        # The mask of the past travels in the cache: a later call may give only the new columns, or none.
        step = model(batch[:, :25], attention_mask=mask[:, :25])
        rest = model(batch[:, 25:], attention_mask=mask[:, 25:], past_key_values=step.past_key_values).logits
        for number, row in enumerate(rows):
            alone = model(row[None]).logits[0]
            assert torch.allclose(logits[number, -len(row) :], alone, atol=1e-5)
            assert torch.allclose(rest[number, -4:], alone[-4:], atol=1e-5)


@pytest.mark.parametrize("with_mask", [False, True])
def test_right_padding_is_harmless(with_mask: bool) -> None:
    """As lm_eval scores: pads of id 0 on the right, without a mask."""
    model, row = tiny_model(), tokens(1, 17)
    padded = torch.cat((row, torch.zeros(1, 9, dtype=torch.int64)), dim=1)
    mask = torch.cat((torch.ones(1, 17), torch.zeros(1, 9)), dim=1) if with_mask else None
    logits = model(padded, attention_mask=mask).logits
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits[:, :17], model(row).logits, atol=1e-5)


def test_what_the_mask_hides_inside_a_row_is_never_seen() -> None:
    """As when a shorter row of a batch goes on after its padding: even separators there are invisible."""
    model, ids = tiny_model(), tokens(1, 20)
    mask = torch.ones_like(ids)
    mask[0, 8:11] = 0
    logits = []
    for filling in (0, SEPARATORS[0]):
        ids[0, 8:11] = filling
        logits.append(model(ids, attention_mask=mask).logits[mask.bool()])
    assert torch.equal(*logits)


def test_a_pad_id_inside_the_text_is_an_ordinary_token() -> None:
    model, ids = tiny_model(), tokens(1, 20)
    ids[0, [0, 9]] = 0
    assert (model(ids).logits[0] - oracle_logits(model, ids[0].tolist())).abs().max() < 2e-5


def _padded_prompts() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    rows = [tokens(1, length, seed=length)[0] for length in (6, 15, 21)]
    batch = torch.stack([torch.nn.functional.pad(row, (21 - len(row), 0)) for row in rows])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), (21 - len(row), 0)) for row in rows])
    return batch, mask, rows


def test_greedy_generation_of_a_padded_batch_equals_uncached_rows() -> None:
    model = tiny_model()
    batch, mask, rows = _padded_prompts()
    generated = model.generate(batch, attention_mask=mask, max_new_tokens=12, do_sample=False, eos_token_id=None)
    for row, result in zip(rows, generated, strict=True):
        ids = row[None]
        for _ in range(12):
            ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)), dim=1)
        assert result[21:].tolist() == ids[0, len(row) :].tolist()


@pytest.mark.parametrize(
    "how",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "top_k": 7, "temperature": 0.8},
        {"do_sample": False, "prefill_chunk_size": 4},
    ],
    ids=["beams", "sampling", "chunked prefill"],
)
def test_generation_with_cache_equals_generation_without(how: dict) -> None:
    model = tiny_model()
    batch, mask, _ = _padded_prompts()
    results = []
    for use_cache in (True, False):
        settings = copy.copy(how) | {"use_cache": use_cache}
        if not use_cache:
            settings.pop("prefill_chunk_size", None)
        torch.manual_seed(3)
        results.append(
            model.generate(batch, attention_mask=mask, max_new_tokens=8, eos_token_id=None, **settings).tolist()
        )
    assert results[0] == results[1]


def test_a_cache_is_reused_over_turns() -> None:
    model, ids = tiny_model(), tokens(1, 12)
    first = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None, return_dict_in_generate=True)
    prompt = torch.cat((first.sequences, tokens(1, 5, seed=9)), dim=1)
    again = model.generate(
        prompt, past_key_values=first.past_key_values, max_new_tokens=6, do_sample=False, eos_token_id=None
    )
    fresh = model.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert again.tolist() == fresh.tolist()


def test_training_gives_gradients_with_and_without_checkpointing() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = tokens(2, 20)
        model(ids, labels=ids).loss.backward()
        gradients.append(model.gpt_neox.layers[0].attention.query_key_value.weight.grad)
    assert gradients[0].abs().max() > 0
    assert torch.allclose(gradients[0], gradients[1])


def test_hidden_states_and_tuple_output() -> None:
    model, ids = tiny_model(), tokens(1, 5)
    output = model(ids, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert torch.allclose(model.embed_out(output.hidden_states[-1]), output.logits)
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)
    assert torch.allclose(model(ids, logits_to_keep=1).logits, output.logits[:, -1:], atol=1e-6)


def test_what_cannot_follow_the_rule_is_refused() -> None:
    model, ids = tiny_model(), tokens(1, 8)
    with pytest.raises(ValueError, match="inputs_embeds hide"):
        model(inputs_embeds=torch.zeros(1, 8, 32))
    with pytest.raises(ValueError, match="output_attentions"):
        model(ids, output_attentions=True)
    with pytest.raises(ValueError, match=r"shape \[1, 1, 8, 8\]"):
        model(ids, attention_mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(ValueError, match="3 columns for 0 past and 8 new"):
        model(ids, attention_mask=torch.ones(1, 3))
    with pytest.raises(ValueError, match="StaticCache"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match="eager"):
        tiny_model(attn_implementation="eager")
    cache = model(ids).past_key_values
    del cache.layers[-1]
    with pytest.raises(ValueError, match="not filled by this model"):
        model(ids, past_key_values=cache)


def test_modes_without_separators_take_embeddings() -> None:
    model, ids = tiny_model("streaming"), tokens(1, 15)
    embedded = model.gpt_neox.embed_in(ids)
    assert torch.allclose(model(inputs_embeds=embedded).logits, model(ids).logits, atol=1e-6)


def test_learned_positions_count_from_the_first_real_token() -> None:
    model = tiny_model(position_embedding="learned")
    row = tokens(1, 10)
    padded = torch.nn.functional.pad(row, (6, 0))
    mask = torch.nn.functional.pad(torch.ones_like(row), (6, 0))
    assert torch.allclose(model(padded, attention_mask=mask).logits[:, 6:], model(row).logits, atol=1e-5)
    with pytest.raises(ValueError, match="position_embedding is 'spiral'"):
        type(model)(tiny_config(position_embedding="spiral"))
