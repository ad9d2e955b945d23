"""What must hold of any text, however strange: shared by the property tests and the fuzz command."""

from __future__ import annotations

from typing import Any

import numpy as np

TEXTS = (
    *("", " ", "the cat sat on the mat .", "Ångström e\u0301 ﬁ İ ΑΣ Σ", "\0\x1f\ufffd a\x0bb", "[MASK] [CLS]##ing ##"),
    *(
        "\ud800x\udfff",
        "北京 是 中国的首都",
        "🙂👩‍👩‍👧 \u200d\u2028\u0085",
        "a" * 300,
        "9,9 ``x'' 1,5,",
        "\u0327\u0301\u0300a",
        "가힣ㄱ",
    ),
)


def check_tokenizer(tokenizer: Any, texts: tuple[str, ...] = TEXTS) -> None:
    """What every tokenizer must hold, whatever the text: ids, offsets and words agree; every id can be decoded."""
    for text in texts:
        ids = tokenizer.ids(text)
        with_offsets, offsets = tokenizer.encode_with_offsets(text)
        bulk, counts = tokenizer.bulk_ids([text])
        assert ids == with_offsets.tolist() == bulk.tolist() and counts.tolist() == [len(ids)], text
        assert offsets.shape == (len(ids), 2), text
        assert np.all(offsets >= 0) and np.all(offsets <= len(text)) and np.all(offsets[:, 0] <= offsets[:, 1]), text
        assert np.all(np.diff(offsets, axis=0) >= 0), text
        assert len(tokenizer.word_starts(np.array(ids, np.int64))) == len(ids), text
        assert all(0 <= number < tokenizer.vocab_size for number in ids), text
        tokenizer.decode(ids), tokenizer.tokenize(text), tokenizer.ids_with_specials(text)
    for number in range(min(tokenizer.vocab_size, 3000)):
        tokenizer.decode([number])
    tokenizer.decode(range(min(tokenizer.vocab_size, 3000)))
