"""TensorFlow is imported without Keras, which is there as soon as somebody asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from bert_jax.data.drivers import tensorflow_on_cpu
tensorflow = tensorflow_on_cpu()
assert "keras" not in sys.modules and not any(type(each).__name__ == "_Refusing" for each in sys.meta_path)
assert tensorflow.keras.layers.Dense(2).units == 2
from tensorflow.keras import layers
assert layers.Dense is tensorflow.keras.layers.Dense
print("there when asked for")
"""


@pytest.mark.ci
def test_keras_comes_only_when_it_is_asked_for() -> None:
    pytest.importorskip("tensorflow")
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("there when asked for"), done.stderr[-2000:]
