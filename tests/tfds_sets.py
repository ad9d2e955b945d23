"""Data sets in the format that TensorFlow Datasets keeps on disk, written without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_set(root: Path, name: str, config: str, features: Any, splits: Mapping[str, Sequence[Mapping]]) -> None:
    """`root/name/config/1.0.0` with one shard per split; `features` is a `tfds.features.FeaturesDict`.

    `name` is one that TFDS does not know: it would fetch the set otherwise.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder = root / name / config / "1.0.0"
    folder.mkdir(parents=True)
    infos = []
    for split, examples in splits.items():
        with tf.io.TFRecordWriter(str(folder / f"{name}-{split}.tfrecord-00000-of-00001")) as writer:
            for example in examples:
                writer.write(features.serialize_example(features.encode_example(example)))
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, split=split, filetype_suffix="tfrecord"
        )
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(examples)], num_bytes=1, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=infos, check_data=False)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(
        json.dumps({**info, "name": name, "configName": config, "version": "1.0.0"})
    )
