"""preprocess_data_with_mask.py and preprocess_data_with_chat_template.py: labels, messages, bytes of the originals."""

import json
from pathlib import Path

import pytest

from megatron.data.indexed_dataset import IndexedDataset
from tests.helpers.shared import shared_folder
from tests.helpers.tiny_tokenizer import write_tokenizer_json
from tests.tools.datasets.running import refused, run_tool

TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MASK, CHAT = "tools/datasets/preprocess_data_with_mask.py", "tools/datasets/preprocess_data_with_chat_template.py"
CHARACTERS = ["--tokenizer-type", "CharLevelTokenizer"]


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def tokenizer_folder(folder: Path, vocabulary: Path | None = None) -> Path:
    folder.mkdir()
    if vocabulary:
        (folder / "tokenizer.json").symlink_to(vocabulary)
    else:
        write_tokenizer_json(folder / "tokenizer.json")
    settings = {"eos_token": {"content": "<|endoftext|>"}, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.multiprocess
def test_masked_text_as_a_user_makes_it(tmp_path: Path) -> None:
    write_lines(tmp_path / "qa.jsonl", {"text": "Q: a\nA: bA: c"}, {"text": "no marker"}, {"no": "text"})
    flags = ["--input", "qa.jsonl", "--append-eod", *CHARACTERS, "--workers", 2, "--dataset-impl", "mmap"]
    done = run_tool(MASK, *flags, "--output-prefix", "out/qa", "--mask-before-text", "A: ", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("2 documents", "left out 1", "train_label_data_paths: [out/qa_label_document]"):
        assert words in done.stdout
    assert "no key 'text'" in (tmp_path / "out" / "qa_rejects.txt").read_text()
    text, labels = (IndexedDataset(tmp_path / "out" / f"qa_{name}_document") for name in ("text", "label"))
    assert text.document(0).tolist() == [*b"Q: a\nA: bA: c", 0]
    assert labels.document(0).tolist() == [*[-100] * 8, *b"bA: c", 0]
    assert labels.document(1).tolist() == text.document(1).tolist() == [*b"no marker", 0]
    as_ids = ["--mask-before-token", "65,58,32", "--output-prefix", "again"]
    assert run_tool(MASK, *flags, *as_ids, cwd=tmp_path).returncode == 0
    for ending in ("bin", "idx"):
        again = tmp_path / f"again_label_document.{ending}"
        assert again.read_bytes() == (tmp_path / "out" / f"qa_label_document.{ending}").read_bytes()


def test_conversations_as_a_user_makes_them(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer")
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    chat = write_lines(
        tmp_path / "chat.jsonl", {"conversation": turns, "score": 0.5}, {"conversation": []}, {"conversation": "text"}
    )
    flags = ["--input", chat, "--tokenizer-path", folder]
    done = run_tool(CHAT, *flags, "--output-prefix", tmp_path / "chat", "--reward-key", "score")
    assert done.returncode == 0, done.stderr
    assert "1 documents" in done.stdout and "left out 2" in done.stdout
    ids = IndexedDataset(tmp_path / "chat_conversation_document").document(0)
    labels = IndexedDataset(tmp_path / "chat_conversation_label_document").document(0)
    prompt = tokenized(folder, "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n")
    assert ids.tolist() == [*prompt, *tokenized(folder, "two<|im_end|>\n"), 0]
    assert labels.tolist() == [*[-100] * len(prompt), *ids[len(prompt) :]]
    assert IndexedDataset(tmp_path / "chat_conversation_reward_document").document(0).tolist() == [0.5]
    assert run_tool(CHAT, *flags, "--output-prefix", tmp_path / "all", "--no-mask").returncode == 0
    assert not list(tmp_path.glob("all*label*"))
    assert IndexedDataset(tmp_path / "all_conversation_document").document(0).tolist() == ids.tolist()


def test_a_template_in_a_file_that_refuses(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path / "tokenizer")
    (tmp_path / "strict.jinja").write_text("{{ raise_exception('no system turns') }}")
    chat = write_lines(tmp_path / "c.jsonl", {"conversation": [{"role": "system", "content": "x"}]})
    flags = ["--input", chat, "--tokenizer-path", folder, "--output-prefix", tmp_path / "out"]
    done = run_tool(CHAT, *flags, "--chat-template", tmp_path / "strict.jinja")
    refused(done, 3, "c.jsonl:1", "no system turns", "No data set was written")
    (tmp_path / "strict.jinja").write_text("{% if %}")
    refused(run_tool(CHAT, *flags, "--chat-template", tmp_path / "strict.jinja"), 3, "no Jinja template")
    (folder / "tokenizer_config.json").write_text("{}")
    refused(run_tool(CHAT, *flags), 2, "has no chat template")
    refused(
        run_tool(CHAT, *flags[:2], "--tokenizer-path", tmp_path, *flags[4:]), 2, "expected a folder with tokenizer.json"
    )
    refused(run_tool(CHAT, *flags, "--binary-reward"), 2, "--reward-key")
    assert not list(tmp_path.glob("out*document*"))


def test_mistakes_of_the_masked_tool(tmp_path: Path) -> None:
    qa = write_lines(tmp_path / "qa.jsonl", {"text": "a"})
    flags = ["--input", qa, "--output-prefix", tmp_path / "out", *CHARACTERS]
    refused(run_tool(MASK, *flags), 2, "--mask-before-token")
    refused(run_tool(MASK, *flags, "--mask-before-token", "x"), 2, "expected ids such as")
    refused(run_tool(MASK, *flags, "--mask-before-token", "600"), 2, "expected ids from 0 to 511")
    refused(run_tool(MASK, *flags, "--mask-before-token", "1", "--jsonl-keys", "label"), 2, "label")
    refused(run_tool(MASK, *flags, "--mask-before-token", "1", "--jsonl-keys", "x"), 3, "the keys are 'text'")
    refused(run_tool(MASK, "--input", tmp_path / "q", *flags[2:], "--mask-before-token", "1"), 3, "q")


GOLDENS = {
    "qa": (MASK, ["--append-eod", "--mask-before-token", "187,187,32869,27"], "qa"),
    "chat": (CHAT, [], "chat"),
    "chatlast": (CHAT, ["--only-last"], "chat"),
    "chatrw": (CHAT, ["--reward-key", "good", "--binary-reward", "--for-rm"], "chat"),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens_to_the_byte(tmp_path: Path, name: str) -> None:
    folder, vocabulary = shared_folder("reference", "goldens_data"), shared_folder("data", "20B_tokenizer.json")
    tool, flags, source = GOLDENS[name]
    if tool == MASK:
        flags = [*flags, "--tokenizer-type", "HFTokenizer", "--vocab-file", str(vocabulary)]
    else:
        flags = [*flags, "--tokenizer-path", str(tokenizer_folder(tmp_path / "tokenizer", vocabulary))]
    source_path = folder / "src" / f"{source}.jsonl"
    done = run_tool(tool, "--input", source_path, "--output-prefix", tmp_path / name, *flags)
    assert done.returncode == 0, done.stderr
    expected = list((folder / "labels").glob(f"{name}_*"))
    assert len(expected) >= 2
    for path in expected:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def tokenized(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
