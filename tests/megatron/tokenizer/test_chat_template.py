"""Chat templates: where they are found, what templates may use, how they fail."""

import json
from pathlib import Path

import pytest

from megatron.errors import DataError, SettingsError
from megatron.tokenizer.chat_template import ChatTemplate, TemplateError
from tests.helpers.tiny_tokenizer import write_tokenizer_json

TURNS = [{"role": "user", "content": "Hi <b>"}, {"role": "assistant", "content": "Yes"}]


def folder_with(tmp_path: Path, template: object, **settings: object) -> Path:
    write_tokenizer_json(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, **settings}))
    return tmp_path


def test_what_templates_may_use(tmp_path: Path) -> None:
    template = """{{ bos_token }}{% for m in messages %}
    {% if loop.index > 5 %}{% break %}{% endif %}
{% generation %}{{ m['content'] | tojson }}{% endgeneration %}|
{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ strftime_now('%Y') | length }}"""
    chat = ChatTemplate(folder_with(tmp_path, template, bos_token="<s>", eos_token="<|endoftext|>"))
    assert chat.render(TURNS) == '<s>"Hi <b>"|\n"Yes"|\n4'
    assert chat.render(TURNS[:1], add_generation_prompt=True) == '<s>"Hi <b>"|\n>4'
    assert chat.eos == 0
    assert chat.backend.decode(chat.tokenize(TURNS)) == chat.render(TURNS)


def test_where_the_template_is_found(tmp_path: Path) -> None:
    named = [{"name": "tool", "template": "tool"}, {"name": "default", "template": "by name"}]
    folder = folder_with(tmp_path, named)
    assert ChatTemplate(folder).render(TURNS) == "by name"
    (folder / "chat_template.jinja").write_text("in a file")
    assert ChatTemplate(folder).render(TURNS) == "in a file"
    (folder / "mine").write_text("given")
    assert ChatTemplate(folder, folder / "mine").render(TURNS) == "given"
    assert ChatTemplate(folder).eos is None


def test_templates_run_in_a_sandbox(tmp_path: Path) -> None:
    chat = ChatTemplate(folder_with(tmp_path, "{{ ''.__class__.__mro__[1].__subclasses__() }}"))
    with pytest.raises(TemplateError, match="unsafe"):
        chat.render(TURNS)


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected a folder with tokenizer\.json"):
        ChatTemplate(tmp_path)
    folder = folder_with(tmp_path, None)
    with pytest.raises(SettingsError, match="no chat template"):
        ChatTemplate(folder)
    with pytest.raises(SettingsError, match="nowhere: cannot read"):
        ChatTemplate(folder, folder / "nowhere")
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not JSON"):
        ChatTemplate(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer"):
        ChatTemplate(folder)
