"""WordPiece by others, on one core: Hugging Face's `tokenizers`, or google's algorithm in Python (transformers).

    python tokenize_peer.py rust --vocab vocab.txt --text TEXT --megabytes 4
    python tokenize_peer.py python --vocab vocab.txt --text TEXT --megabytes 1

The text is cut into lines and given in batches of a thousand; a second pass over the same text is the warm figure.
"""

from __future__ import annotations

import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import contract

LINES_PER_BATCH = 1000


def read_lines(path: Path, megabytes: float) -> list[str]:
    """The first `megabytes` of the text files under `path` in name order, as lines without WikiExtractor's tags."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    lines: list[str] = []
    left = int(megabytes * 1e6)
    for file in files:
        for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.strip() and not line.startswith(("<doc ", "</doc>")):
                lines.append(line)
                left -= len(line.encode()) + 1
                if left <= 0:
                    return lines
    return lines


def make_rust(vocab: Path, cased: bool) -> Callable[[list[str]], int]:
    """Hugging Face's tokenizer, without added special tokens."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=not cased)
    return lambda lines: sum(len(one.ids) for one in tokenizer.encode_batch(lines, add_special_tokens=False))


def make_python(vocab: Path, cased: bool) -> Callable[[list[str]], int]:
    """google's algorithm in Python, as transformers still carries it."""
    try:
        from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy as Slow
    except ImportError:  # transformers before 5 named it so
        from transformers import BertTokenizer as Slow
    tokenizer = Slow(str(vocab), do_lower_case=not cased)
    basic, pieces = tokenizer.basic_tokenizer, tokenizer.wordpiece_tokenizer

    def count(lines: list[str]) -> int:
        total = 0
        for line in lines:
            for word in basic.tokenize(line):
                total += len(tokenizer.convert_tokens_to_ids(pieces.tokenize(word)))
        return total

    return count


def main() -> None:
    """Time both passes and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("rust", "python"))
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--cased", action="store_true")
    arguments = parser.parse_args()
    lines = read_lines(arguments.text, arguments.megabytes)
    count = {"rust": make_rust, "python": make_python}[arguments.kind](arguments.vocab, arguments.cased)
    megabytes = sum(len(line.encode()) + 1 for line in lines) / 1e6
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        tokens = sum(count(lines[at : at + LINES_PER_BATCH]) for at in range(0, len(lines), LINES_PER_BATCH))
        seconds.append(time.perf_counter() - start)
    record = contract.tokenize_record(f"tokenize_{arguments.kind}", megabytes, seconds[0], seconds[1], tokens)
    contract.answer(record, "tokenizers" if arguments.kind == "rust" else "transformers")


if __name__ == "__main__":
    main()
