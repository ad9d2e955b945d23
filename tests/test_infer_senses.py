"""Senses: where the word is found, its vectors in every layer, and that context tells banks apart in a real BERT."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from minilm import minilm_directory
from small_models import small_bert, small_run

from bert_jax import cli
from bert_jax.errors import BertJaxError
from bert_jax.infer.loaded import Bert, load
from bert_jax.infer.senses import characters_of, find_word
from bert_jax.infer.separation import cosines
from bert_jax.text.tokenizer import SPECIAL_PIECES, SentencePieceTokenizer, Tokenizer, WordPieceTokenizer
from bert_jax.text.tokenizer_files import read_vocabulary

RIVER = (
    "We sat on the grassy bank of the river and watched the boats go by.",
    "The fisherman walked along the muddy bank looking for a place to cast.",
    "After the flood, the stream had washed away part of the bank.",
    "Willow trees grow on the opposite bank of the canal.",
    "The ducks climbed up the Bank, and shook the water off.",
)
MONEY = (
    "She deposited her salary at the bank this morning.",
    "The bank raised its interest rates on mortgages again.",
    "He robbed a bank and escaped with two million dollars.",
    "My bank charges a fee for every overdraft on my account.",
    "A loan officer at the bank refused our application.",
)
ANIMAL = (
    "The bat hung upside down from the roof of the cave.",
    "A bat finds insects in the dark by echolocation.",
    "The fruit bat spreads its wings and flies at night.",
    "Biologists caught a bat infected with rabies.",
)
CLUB = (
    "He swung the bat and hit the ball over the fence.",
    "The player broke his bat in the ninth inning.",
    "She bought a new wooden bat for the cricket match.",
    "The batter dropped his bat and ran to first base.",
)


@pytest.fixture(scope="module")
def bert() -> Bert:
    return small_bert()


@pytest.fixture(scope="module")
def minilm() -> Bert:
    return load(minilm_directory())


def test_vectors_are_means_over_the_pieces_of_the_hidden_states(bert: Bert) -> None:
    sentences = ["a dog ran playing on the mat .", "playing", "it was playing , the cat sat playing " + "a " * 20]
    answer = bert.senses("playing", sentences)
    assert answer["pieces"] == ["play", "##ing"]
    places = [(0, 3), (1, 0), (2, 2), (2, 8)]  # (sentence, token) of each `play`
    assert [(use["sentence"], sentences[use["sentence"]][use["start"] : use["end"]]) for use in answer["uses"]] == [
        (sentence, "playing") for sentence, _ in places
    ]
    rows = [bert.tokenizer.encode(sentence, length=40) for sentence in sentences]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    hidden = jax.jit(lambda batch: bert.apply(batch, hidden_states=True)["hidden_states"])(batch)
    for number, (layer, states) in enumerate(zip(answer["layers"], np.asarray(hidden), strict=True)):
        vectors = [(states[row, 1 + token] + states[row, 2 + token]) / 2 for row, token in places]
        assert layer["layer"] == number
        np.testing.assert_allclose(layer["similarity"], cosines(np.stack(vectors)), atol=3e-6)


def test_the_static_embedding_is_the_same_everywhere(bert: Bert) -> None:
    answer = bert.senses("playing", ["the dog was playing", "playing , playing !"])
    assert answer["static"]["similarity"] == [[1.0] * 3] * 3
    assert len(answer["static"]["point"]) == 2
    last = np.array(answer["layers"][-1]["similarity"])
    assert last[~np.eye(3, dtype=bool)].max() < 0.9999
    assert last[0, 1] == last[1, 0]


def found_words(tokenizer: Tokenizer, text: str, word: str) -> list[str]:
    ids, offsets = tokenizer.encode_with_offsets(text)
    found = find_word(tokenizer, text, ids, offsets, tokenizer.ids(word))
    return [text[slice(*characters_of(text, offsets, first, last))] for first, last in found]


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("The bank, a BANK; (bank) bank-note “Bank”", "bank", ["bank", "BANK", "bank", "bank", "Bank"]),
        ("banks banking embank bankbank", "bank", []),
        ("the river bank , river  Bank", "river bank", ["river bank", "river  Bank"]),
        ("a cafe , a CAFÉ, a café", "café", ["cafe", "CAFÉ", "café"]),
        ("don't don ' t done", "don't", ["don't", "don ' t"]),
        ("我在银行工作，银行很大", "银行", ["银行", "银行"]),
        ("bank bank bank", "bank bank", ["bank bank"]),
        ("the [MASK] and [mask]", "[MASK]", ["[MASK]", "[mask]"]),
    ],
)
def test_whole_words_are_found_as_an_uncased_model_sees_them(
    data_dir: Path, text: str, word: str, expected: list[str]
) -> None:
    tokenizer = WordPieceTokenizer(read_vocabulary(data_dir / "vocab" / "bert_base_uncased.txt"), cased=False)
    assert found_words(tokenizer, text, word) == expected


def test_a_cased_model_tells_capitals_apart() -> None:
    tokenizer = WordPieceTokenizer([*SPECIAL_PIECES.values(), "Bank", "bank", "##s", "a"], cased=True)
    assert found_words(tokenizer, "a bank Bank banks", "bank") == ["bank"]
    assert found_words(tokenizer, "a bank Bank Banks", "Banks") == ["Banks"]


def test_sentence_piece_finds_words_beside_punctuation(data_dir: Path) -> None:
    path = data_dir / "sentencepiece" / "albert_30k_clean.model"
    tokenizer = SentencePieceTokenizer(path.read_bytes(), cased=False)
    text = "The bank, (bank) a Bank. banks embankment bank"
    assert found_words(tokenizer, text, "bank") == ["bank", "bank", "Bank", "bank"]


def test_layers_of_a_real_model_part_the_senses_and_the_last_is_not_best(minilm: Bert) -> None:
    for word, first, second in (("bank", RIVER, MONEY), ("bat", ANIMAL, CLUB)):
        sentences = [sentence for pair in zip(first, second, strict=True) for sentence in pair]
        labels = ["first", "second"] * len(first)
        given, found = minilm.senses(word, sentences, labels), minilm.senses(word, sentences)
        assert given["senses"] == ["first", "second"]
        assert found["senses"] is None
        groups = [use["group"] for use in given["uses"]]
        assert groups == [0, 1] * len(first)
        assert [use["group"] for use in found["uses"]] == groups  # nobody told it
        assert given["best_layer"] == found["best_layer"] == 4
        assert given["chosen_by"] == "silhouette"
        scores = [layer["silhouette"] for layer in given["layers"]]
        assert scores[4] > scores[6] + 0.1
        assert scores[4] > 0.4
        best = given["layers"][4]
        assert best["gap"] == pytest.approx(best["within"] - best["between"], abs=2e-6)
        assert best["gap"] > 0.07
        assert np.min(given["static"]["similarity"]) == 1
        # Without context what differs is the position: a split by it, which is why layer 0 is never chosen.
        assert found["layers"][0]["silhouette"] > found["layers"][4]["silhouette"]
        points = np.array([use["point"] for use in given["uses"]])
        sides = points[:, 0] > points[0, 0] / 2 if points[0, 0] > 0 else points[:, 0] < points[0, 0] / 2
        assert (sides == (np.array(groups) == 0)).mean() >= 0.75


def test_hidden_states_of_words_equal_transformers(minilm: Bert) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(minilm_directory()).eval()
    tokenizer = transformers.BertTokenizerFast.from_pretrained(minilm_directory())
    sentences = [*RIVER, *MONEY]
    answer = minilm.senses("bank", sentences)
    rows = tokenizer(sentences, return_tensors="pt", padding=True)
    with torch.no_grad():
        states = model(**rows, output_hidden_states=True).hidden_states
    bank = tokenizer.convert_tokens_to_ids("bank")
    places = (rows["input_ids"] == bank).float().argmax(dim=1)
    for layer, state in zip(answer["layers"], states, strict=True):
        vectors = state[torch.arange(len(sentences)), places].numpy()
        np.testing.assert_allclose(layer["similarity"], cosines(vectors), atol=1e-5)


def test_two_uses_have_no_silhouette_and_choose_by_likeness(minilm: Bert) -> None:
    answer = minilm.senses("bank", [RIVER[0], MONEY[0]])
    assert answer["chosen_by"] == "similarity"
    cosine = [layer["similarity"][0][1] for layer in answer["layers"]]
    assert answer["best_layer"] == 1 + int(np.argmin(cosine[1:]))
    assert [layer["silhouette"] for layer in answer["layers"]] == [None] * 7
    assert [use["group"] for use in answer["uses"]] == [0, 1]


def test_the_same_sentence_twice_is_one_group(bert: Bert) -> None:
    answer = bert.senses("cat", ["the cat sat ."] * 3)
    assert {use["group"] for use in answer["uses"]} == {0}
    assert answer["axes"] == pytest.approx([0, 0], abs=1.1)
    assert answer["layers"][1]["silhouette"] is None


@pytest.mark.parametrize(
    ("word", "sentences", "labels", "message"),
    [
        ("cat", ["the cat", "a dog"], None, "sentence 2 does not hold the word 'cat': 'a dog'; only whole words"),
        ("cat", ["the cat", ""], None, "sentence 2 does not hold the word 'cat': ''"),
        ("play", ["play", "playing"], None, "sentence 2 does not hold"),
        ("cat", ["the cat sat"], None, r"'cat' is used in 1 place\(s\): expected at least two"),
        ("cat", [], None, r"'cat' is used in 0 place"),
        ("", ["the cat", "a cat"], None, "the word '' is empty"),
        (" \u200b", ["the cat", "a cat"], None, "is empty to this tokenizer"),
        ("zebra", ["a zebra", "the zebra"], None, r"'zebra' is unknown to this vocabulary \(\[UNK\]\)"),
        ("[MASK]", ["[MASK] .", "a [MASK]"], None, r"'\[MASK\]' is unknown to this vocabulary"),
        (
            "cat",
            ["the cat", "cat " * 63],
            None,
            "sentence 2 is 65 tokens .* limit of 64: give --truncate to cut it$",
        ),
        ("cat", ["the cat", "a cat"], ["x", "x"], "all sentences have the sense 'x': expected at least two"),
        ("cat", ["the cat", "a cat"], ["x"], "1 labels for 2 sentences"),
        ("cat", ["the cat", "a cat"], ["x", None], "sentence 2 has no sense and others do"),
    ],
)
def test_bad_input_is_one_clear_line(bert: Bert, word: str, sentences, labels, message: str) -> None:
    with pytest.raises(BertJaxError, match=message):
        bert.senses(word, sentences, labels)


def test_a_long_sentence_is_cut_around_the_word(bert: Bert, caplog: pytest.LogCaptureFixture) -> None:
    def long(before: int, after: int) -> str:
        return "a " * before + "the cat sat" + " a" * after

    short = bert.senses("cat", ["the cat", long(0, 59)])
    cut = bert.senses("cat", ["the cat", long(0, 70)], truncate=True)
    assert "1 of 2 inputs were longer than 64 tokens and were cut" in caplog.text
    assert cut["layers"] == short["layers"]
    middle = bert.senses("cat", ["the cat", long(70, 40)], truncate=True)
    assert middle["layers"] == bert.senses("cat", ["the cat", long(29, 30)])["layers"]
    use = middle["uses"][1]
    assert middle["sentences"][1][use["start"] : use["end"]] == "cat"
    with pytest.raises(BertJaxError, match="sentence 1: its first and last use of the word lie 82 tokens apart"):
        bert.senses("cat", ["cat " + "a " * 80 + "cat"], truncate=True)


def test_repeated_calls_compile_nothing_new(bert: Bert) -> None:
    sentences = ["the cat sat", "a cat ran on the road"]
    bert.senses("cat", sentences)
    program = bert.compiled(("word_vectors",), lambda: None)
    size = program._cache_size()
    bert.senses("dog", ["the dog", "a dog was tired . dog"])
    bert.senses("playing", ["playing", "the cat was playing"])
    assert program._cache_size() <= size + 1  # one for the batch of 1 < U ≤ 8 at 16 tokens


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "run", {1: None})
    run, lines = str(tmp_path / "run"), tmp_path / "s.jsonl"
    sentences = ["the cat sat", "a cat ran", "it was the cat", "cat !"]
    assert cli.main(["predict", "senses", run, *sentences, "--word", "cat"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["sentences"] == sentences
    objects = [{"text": text, "sense": label} for text, label in zip(sentences, ("x", "y", "x", 3), strict=True)]
    lines.write_text("".join(json.dumps(item) + "\n" for item in objects))
    out = tmp_path / "answer.jsonl"
    command = ["predict", "senses", run, "--word", "cat", "--input"]
    assert cli.main([*command, str(lines), "--out", str(out)]) == 0
    assert capsys.readouterr().out == ""
    labelled = json.loads(out.read_text())
    assert labelled["senses"] == ["x", "y", "3"]
    assert [use["sense"] for use in labelled["uses"]] == ["x", "y", "x", "3"]
    assert labelled["layers"][1]["similarity"] == answer["layers"][1]["similarity"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["senses", "run", "a cat", "the cat"], "senses needs --word"),
        (["senses", "run", "a", "--word", "a", "--top-k", "3"], "--top-k is for fill-mask, not for senses"),
        (["fill-mask", "run", "[MASK]", "--word", "cat"], "--word is for senses, not for fill-mask"),
        (["senses", "run", "a", "--word", "a", "--out", "x.html"], r"senses writes .jsonl, .png"),
    ],
)
def test_wrong_options_are_bad_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_pair_is_not_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path / "run", {1: None})
    (tmp_path / "s.jsonl").write_text('["a cat", "the cat"]\n')
    command = ["predict", "senses", str(tmp_path / "run"), "--word", "cat", "--input", str(tmp_path / "s.jsonl")]
    assert cli.main(command) == 1
    assert "input 1 is a tuple: expected one sentence" in capsys.readouterr().err
