"""Each sign shows in a text made to show it, and in no good prose or code."""

import pytest

from megatron.data.text_signals import SIGNS, look_for_signs

PROSE = "She said: “No, it is 5 < 6 — is it?”\n\nThe café & the bar; naïve, 日本語.\tAnd so on.\n" * 3
CODE = 'def f(x):\n    print("a\\n")\n    return x and "\\t"\n\nif a < b and c > d:\n    pass\n    pass\n'
SHOWS = {
    "escapes": "one\\ntwo\\nthree \\u00e9",
    "replacement": "na\ufffdve",
    "mojibake": "cafÃ© and itâ€™s Â£5",
    "control": "a\x00b",
    "entities": "a &amp; b &lt;",
    "tags": "<div class='x'><p>a</p></div>",
    "crlf": "a\r\nb",
    "same_lines": "buy now\nclick\n" * 8,
    "same_word": "spam " * 60,
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_shows_where_it_should(name: str) -> None:
    _, found = look_for_signs([(0, PROSE), (7, SHOWS[name]), (8, SHOWS[name])])
    assert {sign.name: (sign.documents, sign.first) for sign in found if sign.documents} == {name: (2, 7)}


@pytest.mark.parametrize("text", [PROSE, CODE, "", "a", "<b>bold</b> R&amp;D"])
def test_good_texts_show_none(text: str) -> None:
    count, found = look_for_signs([(0, text)])
    assert count == 1 and [sign.name for sign in found if sign.documents] == []
