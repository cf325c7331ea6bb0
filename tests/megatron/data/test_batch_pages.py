"""Pages say what counts, mark ends of documents, and escape what is mark-up in the text itself."""

import numpy as np

from megatron.data.batch_pages import Sample, as_html, as_text
from megatron.tokenizer.tokenizer import build_tokenizer

TOKENIZER = build_tokenizer("CharLevelTokenizer", None)


def sample(text: bytes, labels: list[int] | None = None) -> Sample:
    ids = np.frombuffer(text, np.uint8).astype(np.int64)
    return Sample(3, 1, "sample 9 of <set>", ids, ids if labels is None else np.array(labels))


def test_text() -> None:
    heading, body = as_text([sample(b"abc", [-100, -100, 99])], TOKENIZER, None)
    assert heading == "=== step 3, row 1: sample 9 of <set>, 1 of 2 count" and body == "abc"
    assert list(as_text([sample(b"abc")], None, 2))[1] == "97 98"


def test_html() -> None:
    page = as_html([sample(b"<i>\0no")], TOKENIZER, None, "a & b")
    assert "<title>a &amp; b</title>" in page and "of &lt;set&gt;, 5 of 5 count" in page
    assert "<pre>&lt;i&gt;<span class='eod'>end of document</span>\nno</pre>" in page
    assert "class='off'" not in page.split("</style>")[1]


def test_what_does_not_count_is_grey() -> None:
    page = as_html([sample(b"abcdef", [-1, -1, -1, 100, 101, -1])], TOKENIZER, None, "t")
    assert "<pre><span class='off'>abc</span>de<span class='off'>f</span></pre>" in page
    page = as_html([sample(b"abcdef", [-1, 1, 1, 1, 1, 1])], None, 2, "t")
    assert "<pre>97 98 </pre>" in page
