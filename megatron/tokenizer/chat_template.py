"""Conversations to token ids through the chat template of a Hugging Face tokenizer folder, without transformers.

The folder holds tokenizer.json and, in tokenizer_config.json or chat_template.jinja, a Jinja template. It is run in
Jinja's sandbox with the settings, filters and functions that transformers gives to templates.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import tokenizers

from megatron.errors import DataError, SettingsError

Message = dict[str, Any]
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


class TemplateError(ValueError):
    """The template refuses this conversation, or does not fit it."""


class ChatTemplate:
    """A tokenizer folder with its template. eos: id of its end-of-sequence token, None where it has none.

    template: a file to use in place of the folder's own.  SettingsError for a missing folder or template, DataError for
    damaged files.
    """

    def __init__(self, folder: Path, template: Path | None = None) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise SettingsError(f"{folder}: expected a folder with tokenizer.json (and a chat template).")
        try:
            self.backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception for everything it cannot read
            raise DataError(f"{folder / 'tokenizer.json'}: not a tokenizer.json ({error}).") from error
        self.backend.no_padding()
        self.backend.no_truncation()
        settings = _read_json(folder / "special_tokens_map.json") | _read_json(folder / "tokenizer_config.json")
        self.special = {key: _content(settings[key]) for key in SPECIAL if settings.get(key)}
        self.template = _compiled(_template_text(folder, settings, template))
        eos = self.special.get("eos_token")
        self.eos: int | None = None if eos is None else self.backend.token_to_id(eos)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as one text. TemplateError with the template's own words when it refuses."""
        try:
            return self.template.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.special,
            )
        except Exception as error:  # a template can fail in any way Python can
            raise TemplateError(f"the chat template fails: {error}") from error

    def tokenize(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> list[int]:
        """Ids of the rendered conversation; no tokens are added around it."""
        text = self.render(messages, add_generation_prompt=add_generation_prompt)
        return self.backend.encode(text, add_special_tokens=False).ids


def _compiled(text: str) -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks what the model says; here it only stands for its body."""

        tags = {"generation"}  # noqa: RUF012  # the name and kind that jinja2 looks for

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(text)
    except jinja2.TemplateError as error:
        raise DataError(f"the chat template is no Jinja template: {error}") from error


def _template_text(folder: Path, settings: dict[str, Any], given: Path | None) -> str:
    path = given or folder / "chat_template.jinja"
    if given or path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path}: cannot read the chat template: {error}.") from error
    found = settings.get("chat_template")
    if isinstance(found, list):  # several under names
        named = {entry["name"]: entry["template"] for entry in found}
        found = named.get("default") or next(iter(named.values()), None)
    if not isinstance(found, str):
        raise SettingsError(
            f"{folder}: has no chat template, neither chat_template.jinja nor in "
            "tokenizer_config.json. Give --chat-template."
        )
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not JSON: {error}.") from error
    return value if isinstance(value, dict) else {}


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content", ""))
