"""The adapter against one forward pass per request, under every attention mode; and what it refuses."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="lm_eval is installed with the extra `eval`")

from lm_eval.api.instance import Instance

from megatron.errors import SettingsError
from megatron.evaluation.lm_eval_adapter import CheckpointLM
from megatron.evaluation.model_on_ranks import shared_forward
from megatron.evaluation.scorer import Scorer
from megatron.inference.load import inference_config
from megatron.model.gpt_model import GPTModel
from megatron.mpu.parallel_state import single_process
from megatron.neox_arguments.load import arguments_from_texts
from megatron.tokenizer.char_level import CharLevelTokenizer
from tests.helpers.tiny_run import tiny_settings, write_settings

MODES: dict[str, dict[str, Any]] = {
    "sepllm": {},
    "full": {"USE_ORIGINAL_FULL_ATTEN": True, "separators": None},
    "streaming": {
        "streamingLLM": True,
        "separators": None,
        "USE_PREFILL_LOCAL_WIN_SIZES_wrt_LAYERS": None,
        "prefill_loc_win_size_list": None,
        "prefill_local_window_size": 8,
    },
    "fixed": {"USE_FIXED_SEP_INTERVALs": True, "fixed_sep_intervals_list": [4] * 4, "separators": None},
    "bipe": {"USE_BiPE": True, "BiPE_seps": [46, 63, 33, 32], "rotary_pct": 0.5},
    "alibi": {"pos_emb": "alibi"},
    "learned": {"pos_emb": "learned"},
    "self-adjusting": {"USE_SA_SOFTMAX": True},
}
REQUESTS = [
    ("a lazy dog. it", " jumps over"),
    ("", "potions"),
    (" the quick! brown? fox. jumps over." * 3, " a dog"),
    ("brew.", " a potion while wizards jump. over"),
]


class NumbersBack(CharLevelTokenizer):
    """Text of ids: their numbers, so that ids which are no character count too."""

    def detokenize(self, ids: Iterable[int], *, keep_special: bool = False) -> str:
        return "".join(f"<{number}>" for number in ids)


TOKENIZER = NumbersBack()


def model_and_lm(tmp_path: Any, batch_size: int, **changes: Any) -> tuple[GPTModel, CheckpointLM]:
    args = arguments_from_texts(
        [("a.yml", write_settings(tmp_path / "a.yml", tiny_settings(tmp_path, **changes)).read_text())]
    )
    model = GPTModel(inference_config(args, TOKENIZER.vocab_size, TOKENIZER)).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():  # initial weights would hardly tell one mask from another
        if parameter.dim() > 1:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    scorer = Scorer(shared_forward(model, single_process(), args), TOKENIZER.vocab_size)
    return model, CheckpointLM(scorer, TOKENIZER, max_positions=64, batch_size=batch_size)


def instances(kind: Any, rows: list[tuple]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=row, idx=number) for number, row in enumerate(rows)]


@torch.no_grad()
def one_by_one(model: GPTModel, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    ids = (context + continuation)[-65:]
    logs = model(torch.tensor([ids[:-1]])).double().log_softmax(-1)[0]
    places = range(len(ids) - 1 - len(continuation), len(ids) - 1)
    total = sum(float(logs[place, ids[place + 1]]) for place in places)
    return total, all(int(logs[place].argmax()) == ids[place + 1] for place in places)


@torch.no_grad()
def greedy(model: GPTModel, ids: list[int], count: int) -> str:
    """Without cache and padding, one text at a time."""
    new: list[int] = []
    while len(new) < count:
        token = int(model(torch.tensor([ids + new]))[0, -1].argmax())
        if token == TOKENIZER.eod:
            break
        new.append(token)
    return TOKENIZER.detokenize(new)


@pytest.mark.parametrize("mode", MODES)
def test_requests_score_as_alone(mode: str, tmp_path: Any) -> None:
    model, lm = model_and_lm(tmp_path, 3, **MODES[mode])
    found = lm.loglikelihood(instances("loglikelihood", REQUESTS), disable_tqdm=True)
    for (context, continuation), (value, is_greedy) in zip(REQUESTS, found, strict=True):
        expected = one_by_one(model, TOKENIZER.tokenize(context) or [TOKENIZER.eod], TOKENIZER.tokenize(continuation))
        assert (value, is_greedy) == (pytest.approx(expected[0], rel=1e-5), expected[1])
    prompts = [context for context, _ in REQUESTS if context]
    rows = [(prompt, {"until": [], "max_gen_toks": 9}) for prompt in prompts]
    texts = lm.generate_until(instances("generate_until", rows), disable_tqdm=True)
    assert texts == [greedy(model, TOKENIZER.tokenize(prompt)[-55:], 9) for prompt in prompts]


def test_rolling_covers_every_token_once_and_stops_end_a_text(tmp_path: Any) -> None:
    model, lm = model_and_lm(tmp_path, 2)
    text = "a dog. over the wizards! brew potions while foxes jump. " * 3
    ids = TOKENIZER.tokenize(text)
    (total,) = lm.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]), disable_tqdm=True)
    windows = [([TOKENIZER.eod], ids[:64])]
    for start in range(64, len(ids), 64):
        end = min(start + 64, len(ids))
        windows.append((ids[max(end - 65, 0) : start], ids[start:end]))
    assert total == pytest.approx(sum(one_by_one(model, *window)[0] for window in windows), rel=1e-5)

    whole, cut = (
        lm.generate_until(
            instances("generate_until", [("a lazy dog.", {"until": until, "max_gen_toks": 12})]), disable_tqdm=True
        )[0]
        for until in ([], None)
    )
    assert whole == cut and len(whole) > 4
    stop = whole[3:5]
    rows = [
        ("a lazy dog.", {"until": [stop], "max_gen_toks": 12}),
        ("a lazy dog.", {"until": stop, "max_gen_toks": 12}),
    ]
    assert lm.generate_until(instances("generate_until", rows), disable_tqdm=True) == [whole[: whole.find(stop)]] * 2


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"do_sample": True}, "sampling"),
        ({"temperature": 0.7}, "sampling"),
        ({"num_beams": 2}, "num_beams"),
        ({"max_gen_toks": 64}, "64 positions"),
    ],
)
def test_what_it_cannot_do_is_said(kwargs: dict[str, Any], named: str, tmp_path: Any) -> None:
    _, lm = model_and_lm(tmp_path, 2)
    with pytest.raises(SettingsError, match=named):
        lm.generate_until(instances("generate_until", [("a", kwargs)]), disable_tqdm=True)
