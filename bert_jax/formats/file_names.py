"""What the files of a model directory in Hugging Face's layout are called, for those who read, write and fetch one."""

from __future__ import annotations

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARDS = "model-?????-of-?????.safetensors"  # as their writer calls the files that the index names
FLAX_FILE = "flax_model.msgpack"
PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"
KERAS_FILE = "tf_model.h5"
