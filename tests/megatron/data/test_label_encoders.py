"""Labels of masked texts and of conversations, against the sentence that describes them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron.data.label_encoders import ChatEncoder, masked_before
from megatron.data.text_files import RawDocument
from megatron.data.text_records import UnusableDocument
from megatron.tokenizer.chat_template import ChatTemplate
from tests.tools.datasets.test_label_tools import tokenizer_folder

ids_strategy = st.lists(st.integers(0, 2), max_size=12)


@given(ids_strategy, st.lists(st.integers(0, 2), min_size=1, max_size=3))
def test_masked_through_the_first_marker(ids: list[int], pattern: list[int]) -> None:
    ends = [n for n in range(len(pattern), len(ids) + 1) if ids[n - len(pattern) : n] == pattern]
    end = ends[0] if ends else 0
    assert masked_before(ids, pattern) == [-100] * end + ids[end:]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return ChatTemplate(tokenizer_folder(tmp_path_factory.mktemp("chat") / "tokenizer"))


def document(*turns: tuple[str, str], **others: object) -> RawDocument:
    messages = [{"role": role, "content": content} for role, content in turns]
    return RawDocument("x", 1, None, {"conversation": messages, **others})


TURNS = [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "efg")]


def counted_text(template: ChatTemplate, labels: list[int]) -> str:
    return template.backend.decode([label for label in labels if label >= 0], skip_special_tokens=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "bc<|im_end|>\nefg<|im_end|>\n<|endoftext|>"),
        ({"only_last": True}, "efg<|im_end|>\n<|endoftext|>"),
        ({"generation_role": "nobody"}, ""),
        ({"for_reward": True}, "<|endoftext|>"),
    ],
)
def test_what_counts(template: ChatTemplate, options: dict, expected: str) -> None:
    ids, labels = ChatEncoder(template, ("conversation",), **options)(document(*TURNS))
    assert len(ids) == len(labels)
    assert all(label in (-100, i) for i, label in zip(ids, labels, strict=True))
    assert counted_text(template, labels) == expected


def test_rewards(template: ChatTemplate) -> None:
    encode = ChatEncoder(template, ("conversation",), reward_key="good", binary_reward=True)
    assert [encode(document(*TURNS, good=good))[2] for good in (True, False, 3, 0.0)] == [[1], [-1], [1], [-1]]
    with pytest.raises(UnusableDocument, match="holds str"):
        encode(document(*TURNS, good="yes"))
    with pytest.raises(UnusableDocument, match="no key 'good'"):
        encode(document(*TURNS))


def test_unusable_conversations(template: ChatTemplate, tmp_path: Path) -> None:
    encode = ChatEncoder(template, ("conversation",))
    for value, words in (([], "not empty"), ({}, "not empty"), (["text"], "message 1"), ([{"role": 1}], "message 1")):
        with pytest.raises(UnusableDocument, match=words):
            encode(RawDocument("x", 1, None, {"conversation": value}))
    (tmp_path / "last.jinja").write_text("{{ messages[-1]['content'] }}")  # forgets what came before
    forgetful = ChatTemplate(tokenizer_folder(tmp_path / "tokenizer"), tmp_path / "last.jinja")
    with pytest.raises(UnusableDocument, match="changes earlier turns when turn 2"):
        ChatEncoder(forgetful, ("conversation",))(document(*TURNS))
