"""The shape of a BERT model, read from and written to the two published JSON dialects.

Google's `bert_config.json` and Hugging Face's `config.json` use the same field names but mean different functions by
`"gelu"`: Google's code computes the tanh form, Hugging Face's the exact one. Inside this package the activation is
always called `gelu_tanh` or `gelu_exact`; the other names are translated where a file is read or written.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from bert_jax import files
from bert_jax.console import log
from bert_jax.errors import BertJaxError

Activation = Literal[
    "gelu_tanh", "gelu_exact", "relu", "tanh", "linear", "silu", "sigmoid", "mish", "quick_gelu", "relu2", "relu6"
]
Dialect = Literal["google", "huggingface"]

_ACTIVATIONS: tuple[str, ...] = get_args(Activation)
# Other people's names → ours. Our own names are understood in every dialect.
_ALIASES = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python": "gelu_exact",
    "swish": "silu",
}
_GELU: dict[str, str] = {"google": "gelu_tanh", "huggingface": "gelu_exact"}
_EXPORTED: dict[str, dict[str, str]] = {
    "google": {"gelu_tanh": "gelu", "relu": "relu", "tanh": "tanh", "linear": "linear"},
    "huggingface": {"gelu_tanh": "gelu_new", "gelu_exact": "gelu"},
}
# Keys that only Hugging Face writes: any of them decides the dialect.
_HUGGINGFACE_KEYS = frozenset(
    [
        "model_type",
        "architectures",
        "transformers_version",
        "torch_dtype",
        "dtype",
        "_name_or_path",
        "layer_norm_eps",
        "gradient_checkpointing",
        "position_embedding_type",
        "use_cache",
        "classifier_dropout",
    ]
)
# Keys that change what the model computes in ways this package does not: value(s) under which nothing changes.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "model_type": ("bert", None),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes, rates and activation of a BERT encoder, under their published names. Checked when made."""

    vocab_size: int | None = None
    """Rows of the word embedding table (default: as many as the tokenizer has)."""
    hidden_size: int = 768
    """Width of the hidden states."""
    num_hidden_layers: int = 12
    """Number of transformer layers."""
    num_attention_heads: int = 12
    """Attention heads per layer; they divide hidden_size."""
    intermediate_size: int = 3072
    """Width of the feed-forward layers, usually four times hidden_size."""
    hidden_act: Activation = "gelu_tanh"
    """Activation of the feed-forward layers and of the masked language model head."""
    hidden_dropout_prob: float = 0.1
    """Dropout on embeddings and on what each sublayer adds."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout on attention probabilities."""
    max_position_embeddings: int = 512
    """Longest sequence, in tokens."""
    type_vocab_size: int = 2
    """Number of segments (A and B)."""
    initializer_range: float = 0.02
    """Standard deviation of the normal that weights are drawn from (then cut at twice that)."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in LayerNorm."""
    pad_token_id: int = 0
    """Id of [PAD]."""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Keys of a read file that mean nothing here, kept so that they can be reported and written back."""

    def __post_init__(self) -> None:
        """Errors: `BertJaxError` naming the field, its value and what was expected."""
        hints = {item.name: str(item.type) for item in dataclasses.fields(self)}
        for name, hint in hints.items():
            value = getattr(self, name)
            if hint == "int" or (hint == "int | None" and value is not None):
                _check_integer(name, value, 0 if name == "pad_token_id" else 1)
            elif hint == "float":
                _check_float(name, value)
        _check_activation(self.hidden_act)
        if self.hidden_size % self.num_attention_heads:
            raise BertJaxError(
                f"num_attention_heads {self.num_attention_heads} does not divide hidden_size {self.hidden_size}: "
                f"each head takes hidden_size / num_attention_heads channels; change one of them"
            )
        if self.vocab_size is not None and self.pad_token_id >= self.vocab_size:
            raise BertJaxError(
                f"pad_token_id {self.pad_token_id} is outside the vocabulary of {self.vocab_size} entries"
            )

    @property
    def head_size(self) -> int:
        """Channels per attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def known_vocab_size(self) -> int:
        """`vocab_size`, which must have been set by now. Errors: `BertJaxError` when it is not."""
        if self.vocab_size is None:
            raise BertJaxError("vocab_size is not set: give it, or the tokenizer's with config.with_vocab_size(size)")
        return self.vocab_size

    def with_vocab_size(self, size: int) -> BertConfig:
        """This configuration for a tokenizer of `size` entries.

        Errors: `BertJaxError` when `vocab_size` is set and differs.
        """
        if self.vocab_size not in (None, size):
            raise BertJaxError(
                f"vocab_size is {self.vocab_size} and the tokenizer has {size} entries: "
                f"leave vocab_size unset, or use the tokenizer the model belongs to"
            )
        return dataclasses.replace(self, vocab_size=size)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> BertConfig:
        """A published size by name (see `PRESETS`), with some fields changed; vocab_size=None: the tokenizer's.

        Errors: `BertJaxError` for an unknown name.
        """
        if name not in PRESETS:
            hint = _did_you_mean(name, PRESETS)
            raise BertJaxError(f"no preset {name!r}: {hint}known are {', '.join(sorted(PRESETS))}")
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], dialect: Dialect | None = None) -> BertConfig:
        """Read a published configuration; keys that mean nothing here go to `extra`.

        `dialect` decides what `"gelu"` means: None finds it by the keys (`model_type` and other keys only Hugging Face
        writes → exact, otherwise Google's → tanh). Errors: `BertJaxError` for a wrong type or size, an unknown
        activation, or a model that is not a BERT encoder.
        """
        dialect = dialect or ("huggingface" if _HUGGINGFACE_KEYS & values.keys() else "google")
        for name, allowed in _REQUIRED.items():
            if name in values and values[name] not in allowed:
                raise BertJaxError(f"{name} is {values[name]!r}: only a BERT encoder with {allowed[0]!r} is read here")
        known = {item.name for item in dataclasses.fields(cls)} - {"extra"}
        given = {name: value for name, value in values.items() if name in known}
        if "hidden_act" in given:
            given["hidden_act"] = _canonical_activation(given["hidden_act"], dialect)
        if dialect == "huggingface":  # which leaves out what is as it is with BERT-base, the exact GELU among it
            given = {"vocab_size": 30522, "hidden_act": "gelu_exact", **given}
        if given.get("pad_token_id", 0) is None:
            del given["pad_token_id"]
        kept = values.get("extra", {})
        if not isinstance(kept, Mapping):
            raise BertJaxError(f"extra is {str(kept)[:60]!r}: expected an object of further keys")
        extra = {**kept, **{name: values[name] for name in values if name not in {*known, "extra"}}}
        return cls(**given, extra=extra)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike[str], dialect: Dialect | None = None) -> BertConfig:
        """Read `bert_config.json` or `config.json`; `dialect` as in `from_dict`. Errors name the file."""
        values = files.read_json(path)
        if not isinstance(values, dict):
            raise BertJaxError(f"{path} holds {type(values).__name__}: expected one JSON object with hidden_size, …")
        try:
            config = cls.from_dict(values, dialect)
        except BertJaxError as error:
            raise BertJaxError(f"{path}: {error}") from error
        if config.extra:
            log(f"{path}: kept, but without meaning here: {', '.join(sorted(config.extra))}")
        return config

    def to_dict(self, dialect: Dialect | None = None) -> dict[str, Any]:
        """The fields as JSON-able values, `extra` beside them; with a `dialect`, as that program reads them.

        Errors: `BertJaxError` when the dialect cannot say the activation, or Google's the LayerNorm epsilon.
        """
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "extra"}
        if dialect is not None:
            values["hidden_act"] = _exported_activation(self.hidden_act, dialect)
        if dialect == "google":
            if values.pop("layer_norm_eps") != 1e-12:
                raise BertJaxError(
                    f"layer_norm_eps is {self.layer_norm_eps} and Google's code always takes 1e-12: "
                    f"export in the Hugging Face layout instead"
                )
            if self.pad_token_id == 0:
                del values["pad_token_id"]
        if dialect == "huggingface":
            values["model_type"] = "bert"
        extra = {name: value for name, value in self.extra.items() if name not in values}
        if dialect == "google":  # a key of Hugging Face's would turn "gelu" into the exact form when read again
            extra = {name: value for name, value in extra.items() if name not in _HUGGINGFACE_KEYS}
        return {**values, **extra}

    def to_json_string(self, dialect: Dialect | None = None) -> str:
        """`to_dict` as indented JSON text."""
        return files.to_json(self.to_dict(dialect), indent=2) + "\n"


def _check_integer(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BertJaxError(f"{name} is {value!r}: expected a whole number")
    if not least <= value < 2**31:
        raise BertJaxError(f"{name} is {str(value)[:20]}: expected at least {least}, and below 2^31")


def _check_float(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BertJaxError(f"{name} is {value!r}: expected a number")
    if name.endswith("_prob"):
        if not 0 <= value < 1:
            raise BertJaxError(f"{name} is {value}: expected a share of at least 0 and below 1")
    elif not 0 < value <= sys.float_info.max:
        raise BertJaxError(f"{name} is {str(value)[:20]}: expected a positive number")


def _check_activation(name: Any) -> None:
    if name == "gelu":
        raise BertJaxError("hidden_act 'gelu' is two functions: say gelu_tanh (Google) or gelu_exact (Hugging Face)")
    if name not in _ACTIVATIONS:
        hint = _did_you_mean(str(name), (*_ACTIVATIONS, *_ALIASES))
        raise BertJaxError(f"hidden_act is {name!r}: {hint}known are {', '.join(_ACTIVATIONS)}")


def _canonical_activation(name: Any, dialect: Dialect) -> Any:
    if not name and dialect == "google":  # Google's code takes null and "" for the identity
        return "linear"
    if not isinstance(name, str):
        return name  # which is no activation
    name = name.lower()
    return _GELU[dialect] if name == "gelu" else _ALIASES.get(name, name)


def _exported_activation(name: str, dialect: Dialect) -> str:
    if dialect == "google" and name not in _EXPORTED["google"]:
        raise BertJaxError(
            f"hidden_act {name!r} has no name in Google's bert_config.json (it knows gelu as gelu_tanh, relu, tanh and "
            f"linear): export in the Hugging Face layout instead"
        )
    return _EXPORTED[dialect].get(name, name)


def _did_you_mean(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def _size(width: int, layers: int, vocabulary: int = 30522, heads: int | None = None) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or width // 64,
        "intermediate_size": 4 * width,
    }


# The sizes google-research/bert has published; all with the tanh GELU.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _size(128, 2),
    "mini": _size(256, 4),
    "small": _size(512, 4),
    "medium": _size(512, 8),
    "base": _size(768, 12),
    "large": _size(1024, 24),
    "base_cased": _size(768, 12, 28996),
    "large_cased": _size(1024, 24, 28996),
    "base_chinese": _size(768, 12, 21128),
    "multilingual": _size(768, 12, 119547),
    "multilingual_uncased": _size(768, 12, 105879),
}
