"""The verbs of fine-tuned models, as methods of what `bert_jax.load` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from bert_jax.infer.answer import Asked, answers
from bert_jax.infer.by_form import form_of
from bert_jax.infer.choose import Offered, choose
from bert_jax.infer.classify import classify
from bert_jax.infer.extract import extracts
from bert_jax.infer.relate import relations
from bert_jax.infer.tag import tags
from bert_jax.infer.windows import Text
from bert_jax.tasks.task import ChoiceExample, Question

if TYPE_CHECKING:
    from bert_jax.infer.loaded import Bert

Answer = dict[str, Any]
CLASSIFIES = ("classification", "regression", "multi_label", "first_token")


class TaskVerbs:
    """One answer for one input, a list for several. Errors: `BertJaxError` for a model fine-tuned for another task."""

    @property
    def _bert(self) -> Bert:
        return cast("Bert", self)  # which alone these methods are for

    def classify(
        self,
        texts: Text | Iterable[Text],
        truncate: bool = False,
        max_length: int | None = None,
        packing: int | None = None,
    ) -> Answer | list[Answer]:
        """The label of a text or a pair (a tuple) and all probabilities; a score for a regression.

        See `bert_jax.infer.classify.classify`, which streams.

        >>> answer = classifier.classify("the cat was happy")
        >>> sorted(answer["probabilities"])
        ['negative', 'positive']
        >>> answer["probabilities"][answer["label"]] >= 0.5
        True
        >>> [answer["a"] for answer in classifier.classify([("a cat", "it ran"), ("a dog", "it sat")])]
        ['a cat', 'a dog']
        """
        form = form_of(self._bert, CLASSIFIES, "classify texts")
        if isinstance(texts, str | tuple):
            return next(classify(self._bert, [texts], form, truncate, max_length, packing))
        return list(classify(self._bert, texts, form, truncate, max_length, packing))

    def tag(self, texts: str | Iterable[str]) -> Answer | list[Answer]:
        """A tag for every word, and the entities with their characters. See `bert_jax.infer.tag.tags`.

        >>> answer = tagger.tag("The cat ran.")
        >>> answer["words"], len(answer["tags"])
        (['The', 'cat', 'ran', '.'], 4)
        >>> all(entity["kind"] == "PET" for entity in answer["entities"])
        True
        """
        form = form_of(self._bert, ("tagging",), "tag words")
        if isinstance(texts, str):
            return next(tags(self._bert, [texts], form))
        return list(tags(self._bert, texts, form))

    def relate(self, texts: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]]) -> Answer | list[Answer]:
        """The relation between two entities marked `<e1>…</e1>` and `<e2>…</e2>`.

        See `bert_jax.infer.relate.relations`.

        >>> answer = relater.relate("The <e1>dog</e1> ran on the <e2>cat</e2>.")
        >>> answer["text"], answer["first"], sorted(answer["probabilities"])
        ('The dog ran on the cat.', [4, 7], ['Chases(e1,e2)', 'Other'])
        """
        form = form_of(self._bert, ("relation",), "relate entities")
        if isinstance(texts, str | Mapping):
            return next(relations(self._bert, [texts], form))
        return list(relations(self._bert, texts, form))

    def extract(self, texts: str | Iterable[str]) -> Answer | list[Answer]:
        """The spans of a text, with their kinds and characters. See `bert_jax.infer.extract.extracts`.

        >>> text = "the cat sat , a dog ran"
        >>> spans = extractor.extract(text)["spans"]
        >>> all(text[span["first"] : span["past"]] == span["text"] for span in spans)
        True
        """
        form = form_of(self._bert, ("pointers",), "extract spans")
        if isinstance(texts, str):
            return next(extracts(self._bert, [texts], form))
        return list(extracts(self._bert, texts, form))

    def answer(
        self, questions: str | Asked | Iterable[str | Asked], context: str | None = None
    ) -> Answer | list[Answer]:
        """The answer to a question in its context: `bert.answer("Who …?", context="…")`, or a pair (question, context).

        See `bert_jax.infer.answer.answers`.

        >>> context = "The cat sat on the mat. It was tired."
        >>> answer = reader.answer("the cat was ?", context=context)
        >>> context[answer["start"] : answer["end"]] == answer["answer"]
        True
        """
        form = form_of(self._bert, ("question_answering",), "answer questions")
        if isinstance(questions, str | tuple | Mapping | Question):
            return next(answers(self._bert, [questions], form, context))
        return list(answers(self._bert, questions, form, context))

    def choose(
        self, contexts: Offered | Iterable[Offered], choices: Sequence[str] | None = None, packing: int | None = None
    ) -> Answer | list[Answer]:
        """The best of several endings: `bert.choose("It began to rain. She", choices=["opened …", "sold …"])`.

        See `bert_jax.infer.choose.choose`.

        >>> answer = chooser.choose("the cat was tired", choices=["it sat", "it ran", "rain !"])
        >>> len(answer["probabilities"]), answer["text"] == ["it sat", "it ran", "rain !"][answer["choice"]]
        (3, True)
        """
        form = form_of(self._bert, ("multiple_choice",), "choose")
        if isinstance(contexts, str | tuple | Mapping | ChoiceExample):
            return next(choose(self._bert, [contexts], form, choices, packing))
        return list(choose(self._bert, contexts, form, choices, packing))
