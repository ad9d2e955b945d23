"""How a sentence vector is made of token vectors, as sentence-transformers directories record it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bert_jax.errors import BertJaxError
from bert_jax.files import clear_errors, is_inside, read_json, write_json
from bert_jax.text.tokenizer_files import CONFIG_FILE as TOKENIZER_CONFIG

Mode = Literal["mean", "cls", "max", "pooler"]

MODULES_FILE = "modules.json"
_PROMPTS_FILE = "config_sentence_transformers.json"
_LENGTH_FILE = "sentence_bert_config.json"
FILES = (MODULES_FILE, _PROMPTS_FILE, _LENGTH_FILE)
"""Every file that the recipe is read from, beside a module's own `MODULE_CONFIG_FILE` and the tokenizer's files."""
MODULE_CONFIG_FILE = "config.json"
_NO_LIMIT = 10**6
_POOLING_FOLDER = "1_Pooling"
# Their switches (one each, before they had `pooling_mode`) and ours; null: known there, and not computed here.
_SWITCHES: dict[str, Mode | None] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
    "pooling_mode_lasttoken": None,
}


@dataclass(frozen=True)
class Pooling:
    """The recipe: `mode`, whether vectors are scaled to length 1, the longest input in tokens (None: the model's).

    `prompts`: texts by their names, to be put before an input; `default_prompt`: the name of the one that is where none
    is asked for. `include_prompt`: whether mean and max are over the prompt's tokens too. `lower_case`: inputs are
    lower-cased whatever the tokenizer does.
    """

    mode: Mode = "mean"
    normalize: bool = False
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    lower_case: bool = False

    def prompt(self, asked: str | None) -> str:
        """The text to put before inputs: `asked`, the name of a prompt or else the text itself; None: the default."""
        if asked is None:
            asked = "" if self.default_prompt is None else self.default_prompt
        return self.prompts.get(asked, asked)


def read_pooling(folder: Path) -> tuple[Path, Pooling] | None:
    """The folder of the encoder and the recipe of a sentence-transformers directory; None when it is no such one.

    Errors: `BertJaxError` for a module or a way of pooling that is not computed here.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    listed = read_json(folder / MODULES_FILE)
    if not isinstance(listed, list) or not all(isinstance(item, dict) and "type" in item for item in listed):
        raise BertJaxError(f"{folder / MODULES_FILE} is no list of modules with a type: restore the file")
    encoder, mode, normalize, include = folder, "mean", False, True
    for item in listed:
        kind, path = str(item["type"]).rsplit(".", 1)[-1], str(item.get("path", ""))
        if path and not is_inside(path):
            raise BertJaxError(f"{folder / MODULES_FILE} names the folder {path!r}: expected one inside its directory")
        place = folder / path
        if kind == "Transformer":
            encoder = place
        elif kind == "Pooling":
            mode, include = _mode(place / MODULE_CONFIG_FILE)
        elif kind == "Normalize":
            normalize = True
        else:
            raise BertJaxError(
                f"{folder / MODULES_FILE} asks for {str(item['type'])[:60]}, which is not computed here: expected "
                f"Transformer, Pooling and Normalize; load {encoder} alone to do without it"
            )
    prompts, default = _prompts(folder)
    length, lower = _max_length(encoder), _settings(encoder / _LENGTH_FILE).get("do_lower_case") is True
    return encoder, Pooling(mode, normalize, length, prompts, default, include, lower)  # type: ignore[arg-type]


def _settings(path: Path) -> dict[str, Any]:
    """A JSON object, empty when there is no such file, or something else in it."""
    with clear_errors("read", path):  # of a folder whose name no system takes
        there = path.is_file()
    values = read_json(path) if there else {}
    return values if isinstance(values, dict) else {}


def _prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Prompts by name, and the name of the default one."""
    path = folder / _PROMPTS_FILE
    values = _settings(path)
    prompts, default = values.get("prompts") or {}, values.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise BertJaxError(f"{path}: prompts is {str(prompts)[:60]}: expected an object of texts by their names")
    prompts = {name: text for name, text in prompts.items() if text is not None}
    if default is not None and default not in prompts:
        raise BertJaxError(
            f"{path}: default_prompt_name is {default!r}: expected one of its prompts, {', '.join(prompts) or 'none'}"
        )
    return prompts, default


def _mode(path: Path) -> tuple[str, bool]:
    """The way of pooling, and whether the prompt takes part."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise BertJaxError(f"{path} holds {type(values).__name__}, expected a JSON object")
    named = values.get("pooling_mode")
    if isinstance(named, str):
        chosen = [named if named in get_args(Mode) else None]
        names = [named]
    else:
        names = [name for name in values if name.startswith("pooling_mode_") and values[name]]
        chosen = [_SWITCHES.get(name) for name in names]
    if len(chosen) != 1 or chosen[0] is None:
        raise BertJaxError(f"{path} pools by {' and '.join(names) or 'nothing'}: expected one of mean, cls, max")
    return chosen[0], values.get("include_prompt") is not False


def _max_length(encoder: Path) -> int | None:
    """The longest input: newer versions of theirs keep it with the tokenizer, where a huge number stands for none."""
    for name, key in ((_LENGTH_FILE, "max_seq_length"), (TOKENIZER_CONFIG, "model_max_length")):
        length = _settings(encoder / name).get(key)
        if isinstance(length, int | float) and not isinstance(length, bool) and 0 < length < _NO_LIMIT:
            return int(length)
    return None


def write_pooling(folder: Path, pooling: Pooling, width: int) -> None:
    """Make a Hugging Face directory one that sentence-transformers reads too; `width` is that of the vectors."""
    if pooling.mode == "pooler":
        raise BertJaxError("sentence-transformers has no pooling by the pooler: choose mean, cls or max")
    listed: list[dict[str, Any]] = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": _POOLING_FOLDER, "type": "sentence_transformers.models.Pooling"},
    ]
    if pooling.normalize:
        listed.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
        (folder / "2_Normalize").mkdir()
    write_json(folder / MODULES_FILE, listed)
    # The tokenizer that is written beside it lower-cases by itself.
    write_json(folder / _LENGTH_FILE, {"max_seq_length": pooling.max_length, "do_lower_case": False})
    if pooling.prompts:
        prompts = {"prompts": pooling.prompts, "default_prompt_name": pooling.default_prompt}
        write_json(folder / _PROMPTS_FILE, prompts)
    (folder / _POOLING_FOLDER).mkdir()
    switches = {name: mode == pooling.mode for name, mode in _SWITCHES.items() if mode is not None}
    values = {"word_embedding_dimension": width, **switches, "include_prompt": pooling.include_prompt}
    write_json(folder / _POOLING_FOLDER / MODULE_CONFIG_FILE, values)
