"""Documents with labels: what of a document a model is trained to say. -100 marks what it is only shown.

Rules and ids are those of GPT-NeoX's preprocess_data_with_mask.py and preprocess_data_with_chat_template.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from megatron.data.text_files import RawDocument
from megatron.data.text_records import UnusableDocument, record_of, texts_of
from megatron.tokenizer.chat_template import ChatTemplate, Message, TemplateError
from megatron.tokenizer.tokenizer import Tokenizer

IGNORED = -100


@dataclass(frozen=True)
class MaskEncoder:
    """Text under `key`; labels are -100 through the end of the first place where the ids `pattern` stand.

    A document without that place counts as a whole.  append_eod: end every document with the tokenizer's eod.
    """

    tokenizer: Tokenizer
    key: str
    pattern: tuple[int, ...]
    append_eod: bool
    repair: Callable[[str], str]

    def __call__(self, document: RawDocument) -> list[list[int]] | None:
        """[ids, labels]; None for a blank line. UnusableDocument with the reason."""
        texts = texts_of(document, [self.key])
        if texts is None:
            return None
        ids = self.tokenizer.tokenize(self.repair(texts[0]))
        if not ids:
            raise UnusableDocument("the text has no tokens")
        ids = [*ids, self.tokenizer.eod] if self.append_eod else ids
        return [ids, masked_before(ids, self.pattern)]


@dataclass(frozen=True)
class ChatEncoder:
    """Conversations, lists of {"role", "content"}, under each of `keys`.

    Labels count on the turns of `generation_role` (only_last: on the last turn alone), the header that the template
    puts before such a turn excluded.  for_reward: on the end of the conversation alone.  no_mask: there are no labels.
    reward_key: a number of each conversation becomes a data set of one-token documents; binary_reward: 1 or -1.
    """

    template: ChatTemplate
    keys: tuple[str, ...]
    generation_role: str = "assistant"
    only_last: bool = False
    for_reward: bool = False
    no_mask: bool = False
    reward_key: str | None = None
    binary_reward: bool = False
    repair: Callable[[str], str] = str

    def __call__(self, document: RawDocument) -> list[Sequence[float]] | None:
        """Per key: ids, labels (not with no_mask), reward (with reward_key); None for a blank line."""
        record = record_of(document, self.keys[0])
        if record is None:
            return None
        found: list[Sequence[float]] = []
        for key in self.keys:
            ids, labels = self._conversation(_messages(record, key, self.repair))
            found += [ids] if self.no_mask else [ids, labels]
            if self.reward_key is not None:
                found.append([self._reward(record, self.reward_key)])
        return found

    def _conversation(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        try:
            if self.no_mask or self.for_reward:
                return self._whole(messages)
            return self._by_turns(messages)
        except TemplateError as error:
            raise UnusableDocument(str(error)) from error

    def _whole(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        ids = self.template.tokenize(messages)
        end = [] if self.template.eos is None else [self.template.eos]
        if self.no_mask:
            return ids + end, ids + end
        # GPT-NeoX ends these conversations twice; a reward model reads its value at the second end.
        return ids + end + end, [IGNORED] * len(ids + end) + end

    def _by_turns(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        labels: list[int] = []
        for number, message in enumerate(messages):
            is_last = number == len(messages) - 1
            prompt = not is_last and messages[number + 1]["role"] == self.generation_role
            so_far = self.template.tokenize(messages[: number + 1], add_generation_prompt=prompt)
            if so_far[: len(ids)] != ids:
                raise UnusableDocument(f"the chat template changes earlier turns when turn {number + 1} is added")
            turn = so_far[len(ids) :]
            counts = message["role"] == self.generation_role and (is_last or not self.only_last)
            labels += turn if counts else [IGNORED] * len(turn)
            ids = so_far
        if self.template.eos is not None:
            labels.append(self.template.eos if labels and labels[-1] != IGNORED else IGNORED)
            ids = [*ids, self.template.eos]
        return ids, labels

    def _reward(self, record: dict[str, Any], key: str) -> float:
        if key not in record:
            raise UnusableDocument(f"no key {key!r}; the keys are {', '.join(map(repr, record))}")
        value = record[key]
        if not isinstance(value, bool | int | float):
            raise UnusableDocument(f"key {key!r} holds {type(value).__name__}, expected a number or true or false")
        return (1 if value else -1) if self.binary_reward else float(value)


def masked_before(ids: Sequence[int], pattern: Sequence[int]) -> list[int]:
    """`ids` with -100 up to and including the first occurrence of `pattern`; unchanged where there is none."""
    pattern = list(pattern)
    for place in range(len(ids) - len(pattern) + 1):
        if ids[place] == pattern[0] and list(ids[place : place + len(pattern)]) == pattern:
            end = place + len(pattern)
            return [IGNORED] * end + list(ids[end:])
    return list(ids)


def _messages(record: dict[str, Any], key: str, repair: Callable[[str], str]) -> list[Message]:
    if key not in record:
        raise UnusableDocument(f"no key {key!r}; the keys are {', '.join(map(repr, record)) or 'none'}")
    messages = record[key]
    if not isinstance(messages, list) or not messages:
        raise UnusableDocument(f"key {key!r} holds {type(messages).__name__}, expected a list of messages, not empty")
    for number, message in enumerate(messages, start=1):
        if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
            raise UnusableDocument(f'message {number} under {key!r}: expected {{"role": ..., "content": ...}}')
    return [
        {name: repair(value) if name == "content" and isinstance(value, str) else value for name, value in one.items()}
        for one in messages
    ]
