"""Where sentences end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_jax.text.sentences import split_sentences

# "|" stands where a sentence must end.
CASES = [
    "He came.| She saw!| Did they win?| Yes.",
    "Mr. Smith met Dr. J. R. Jones on Jan. 5 in Washington, D.C. with Mrs. Brown.| They talked.",
    "Pi is 3.14 and e is 2.718.| Version 1.2.3 is out.| See Fig. 4, p. 12 and No. 7.",
    "He lives in the U.S. Army base.| She left the U.S.| The end.",
    "She moved to the U.S. in 1990.| He works at Apple Inc.| It is large.",
    "Use e.g. Apples, i.e. Fruit, cf. Plato and so on etc.| Then stop.",
    'He said, "Stop."| She did.| "Why?" he asked.| (It was late.)| “Go!”| They went.',
    "Wait... what?| No...| Really.",
    "[...] But if he had, he would.| […] So it is.",
    "It ended in 1990.| 25 people came.",
    "1. Wash your hands.| 2. Dry them.",
    "Einstein (b. 1879, d. 1955) won in Roe v. Wade.| Next.",
    "visit example.com today.| Read a.b.c now. iPhone sales rose. iPad sales fell.",
    "Er kam z. B. nach Berlin.| Dann ging er.| ¿Qué pasa?| ¡Nada!",
    "今天天气很好。|我们去公园吧！|你来吗？|“好的。”|他笑了；|她也笑了。",
    "他说：“走吧。”|然后离开了。|（完。）|『真的？！』|不知道",
    "价格是3.14元。|为什么?|因为便宜!|好",
    "これは本です。|そうですか？|はい。",
    "यह एक वाक्य है।|यह दूसरा है।| هل تسمع؟| نعم۔",
    "Привет.| Это тест.| Нет, т. е. да.",
    "Mixed 中文。|English follows. ok.| Done.",
]


@pytest.mark.parametrize("case", CASES)
def test_sentences_end_where_they_should(case: str) -> None:
    assert split_sentences(case.replace("|", "")) == [part.strip() for part in case.split("|")]


def test_a_line_end_ends_a_sentence() -> None:
    assert split_sentences("Heading\n\n One. Two \n") == ["Heading", "One.", "Two"]
    assert split_sentences(" \n ") == split_sentences("") == []


@given(st.text(alphabet=st.sampled_from('aA1.!?… \n"”)(。！；中M r\u3000é'), max_size=60))
def test_nothing_but_blanks_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in sentences)


@given(st.lists(st.sampled_from(["He came.", "No. 5", "Mr. X left.", "好。", "Why?", "end"]), max_size=8))
def test_splitting_again_changes_nothing(parts: list[str]) -> None:
    once = split_sentences(" ".join(parts))
    assert [again for sentence in once for again in split_sentences(sentence)] == once


def test_it_is_linear_in_the_length() -> None:
    """Hostile lines: only marks, only quotes, no blanks; quadratic code would take minutes."""
    start = time.process_time()
    for unit in (".", "!", '"', ". ", ".)", "。", "？”", "A. ", "x", "Mr. ", "... ", "é. a"):
        split_sentences(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 10


def test_real_text_gives_plausible_sentences(data_dir: Path) -> None:
    for name, low, high in (("enwiki/AA_wiki_02.txt", 60, 200), ("zhwiki/AA_wiki_04.txt", 15, 80)):
        lines = (data_dir / "corpus" / name).read_text("utf-8").split("\n")
        sentences = [sentence for line in lines for sentence in split_sentences(line)]
        assert low < sum(map(len, sentences)) / len(sentences) < high
