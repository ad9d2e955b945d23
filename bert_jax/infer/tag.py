"""Tag: a label for every word of a text, and the entities that these make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bert_jax.infer.by_form import predictions, require_text
from bert_jax.tasks.tagging import Tagging
from bert_jax.tasks.task import TaggedExample
from bert_jax.tasks.text_words import word_places

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert


def tags(bert: Bert, texts: Iterable[str], form: Tagging) -> Iterator[dict[str, Any]]:
    """One answer per text, in order: `text`, its `words`, their `tags`, and `entities`, each with `kind`, `first` and
    `past` (characters of the text), `text` and `probability` (the mean of its words' ones).

    A text is cut into words at blanks and punctuation, a Chinese character is a word
    (`bert_jax.tasks.text_words`). Long texts are tagged in windows, so that no length is too long.
    Errors: `BertJaxError` for a model without a tagging head, and for an input that is no text.
    """
    examples = (tagged_text(require_text(text, f"input {n}"), f"input {n}") for n, text in enumerate(texts, start=1))
    for example, prediction in predictions(bert, form, examples):
        yield {"text": example.text, "words": list(example.words), **prediction}


def tagged_text(text: str, place: str) -> TaggedExample:
    """A text as words without tags."""
    offsets = tuple(word_places(text))
    words = tuple(text[first:past] for first, past in offsets)
    return TaggedExample(place=place, words=words, text=text, offsets=offsets)
