"""Word starts by a word segmenter for many lines at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bert_jax.text.interface import Tokenizer
from bert_jax.text.segmenters import Segmenter, word_starts


def segmented_word_starts(
    ids: np.ndarray, lengths: np.ndarray, lines: Sequence[str], tokenizer: Tokenizer, segmenter: Segmenter
) -> np.ndarray:
    """bool (tokens,): where words begin in `lines`, whose ids are `ids` (tokens,) with `lengths` (lines,) each.

    Nearly always a line's ids are its words' ids one after another: then the first of each word begins it, and the
    words' ids are remembered by the tokenizer. Other lines (the segmenter cuts inside a piece, or the tokenizer looks
    across words) are aligned by character offsets, which is slower.
    """
    words = [segmenter(line) for line in lines] if tokenizer.kind == "wordpiece" else [[] for _ in lines]
    word_ids, word_lengths = tokenizer.bulk_ids([word for some in words for word in some])
    line_of_word = np.repeat(np.arange(len(lines)), [len(some) for some in words])
    sums = np.bincount(line_of_word, word_lengths, minlength=len(lines)).astype(np.int64)
    line_of_token = np.repeat(np.arange(len(lines)), lengths)
    simple = sums == lengths
    differs = ids[simple[line_of_token]] != word_ids[np.repeat(simple, sums)]
    simple[line_of_token[simple[line_of_token]][differs]] = False

    starts = np.zeros(len(ids), bool)
    first_of_line = np.cumsum(lengths) - lengths
    inside = np.cumsum(word_lengths) - word_lengths - (np.cumsum(sums) - sums)[line_of_word]
    begins = (first_of_line[line_of_word] + inside)[simple[line_of_word] & (word_lengths > 0)]
    starts[begins] = True
    for index in np.flatnonzero(~simple).tolist():
        line_ids, offsets = tokenizer.encode_with_offsets(lines[index])
        assert len(line_ids) == lengths[index], lines[index]
        first = first_of_line[index]
        starts[first : first + len(line_ids)] = word_starts(lines[index], offsets, segmenter)
    return starts
