"""Texts on which tokenizers differ: every run that uses a second encoder compares both on these first."""

_BLANKS = [" " * count for count in (1, 2, 3, 4, 7, 8, 15, 16, 23, 24, 25, 31, 64, 500)]

HARD_TEXTS: list[str] = [
    "",
    "a",
    "\n",
    " \t \n\r\n ",
    *_BLANKS,
    *(f"x{blanks}y" for blanks in _BLANKS),
    *(f"\n{blanks}return\n" for blanks in _BLANKS),
    "\t\t\tif x:\n\t\t\t\tpass\n",
    "line one\r\nline two\r\rline three\n\n\n\nline four",
    # Special and added tokens inside the text, alone, doubled, almost.
    "<|endoftext|>",
    "before <|endoftext|> after",
    "a<|endoftext|><|endoftext|>b",
    "<|endoftext|",
    "<|padding|> and <|endoftext |>",
    # The same letters composed and decomposed; ligatures, signs that normalisers change.
    "caf\u00e9 cafe\u0301 \u212bngstr\u00f6m A\u030a \u1e9b\u0323 \u0344 \u1100\u1161\u11a8 \uac01",
    "\ufb01nal \ufb03 \u2460 \u2122 \u00bd \u33a5 \uff21\uff22\uff23",
    "q\u0323\u0307 q\u0307\u0323 \u0958 \u2126 \u2000\u2001\u3000x",
    # Marks and blanks that are neither letters nor spaces everywhere.
    "\ufeffbom \u200bzero\u200dwidth\u00a0hard\u2028line\u2029end\u0085next\x0bv\x0cf\x1c\x00nul\x7f",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \U0010ffff \ud7ff\ue000",
    # Scripts.
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3001\u4e2d\u6587\u3002 \ud55c\uad6d\uc5b4",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0651\u0629",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 \u1f88\u03b0",
    # Contractions, digits, punctuation: where pre-tokenizers cut.
    "I'm you're they'll we'd I've it's 'S 'LL don't DON'T \u2019s ''s",
    "1 12 123 1234 12345 3.14159 1e-10 0x1F 1,000,000 \u0661\u0662\u0663 \u00b2\u2155 v2.0.1",
    "!!! ... --- ### $$$ ?!?! <<>> /* x */ // \\n \\\\ \"'`~",
    "snake_case camelCase HTTPServer __init__(self, *args, **kwargs) -> None: # ok",
    "http://example.org/a?b=c&d=%20e#f mail@example.org",
    # Long runs: one word, one letter, one mark.
    "antidisestablishmentarianism" * 40,
    "a" * 3000,
    "ab" * 1500 + "=" * 700 + "." * 700 + "\n" * 700,
    "e\u0301" * 300 + "\u0301" * 50,
    "\U0001f600" * 200,
]
