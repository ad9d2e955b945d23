"""Where predictions run: parameters on every device, the rows of a batch spread over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax.config import Mesh
from bert_jax.errors import BertJaxError
from bert_jax.model.layout import Layout
from bert_jax.train.sharding import BATCH, by_device, make_mesh


def prediction_devices(count: int | None = None) -> list[jax.Device]:
    """The first `count` of this process's devices; without it all accelerators, or one CPU, whose cores one program
    shares anyway. Errors: `BertJaxError` when there are fewer."""
    known = jax.local_devices()
    if count is None:
        return known[:1] if known[0].platform == "cpu" else known
    if not 1 <= count <= len(known):
        raise BertJaxError(
            f"devices is {count}: expected 1 to {len(known)}, what this process has ({known[0].platform})"
        )
    return known[:count]


class Placing:
    """Puts arrays on `devices`: whole on each (`everywhere`), or a part of the rows on each (`rows`)."""

    def __init__(self, devices: Sequence[jax.Device]):
        self.devices = tuple(devices)
        self._mesh = make_mesh(Mesh(), devices) if len(devices) > 1 else None

    @property
    def layout(self) -> Layout:
        """What the model is told of the devices."""
        layout = Layout(platform=self.devices[0].platform)
        return layout if self._mesh is None else layout._replace(by_device=partial(by_device, self._mesh))

    def everywhere(self, tree: Any) -> Any:
        """`tree` of arrays, whole on each device."""
        if self._mesh is None:
            if self.devices[0] == jax.local_devices()[0]:
                return jax.tree.map(jnp.asarray, tree)  # not bound to it: a caller may mix them with arrays elsewhere
            return jax.device_put(tree, self.devices[0])
        return jax.device_put(tree, NamedSharding(self._mesh, PartitionSpec()))

    def rows(self, array: np.ndarray) -> Any:
        """`array` (rows, ...), its rows a multiple of the devices, as many of them on each."""
        if self._mesh is None:
            return array  # the program takes it where its parameters are
        return jax.device_put(array, NamedSharding(self._mesh, BATCH))
