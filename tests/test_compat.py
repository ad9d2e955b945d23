"""The generator equals jax's own bit for bit; meshes are Auto; keys are read in every form."""

from __future__ import annotations

import os

import jax
import jax.extend.random
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bert_jax import compat
from bert_jax.errors import BertJaxError

# The known answers that come with Random123 (kat_vectors, threefry2x32, 20 rounds): counter, key, result.
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_threefry_known_answers(counter, key, expected):
    words = compat.threefry_2x32(*key, *counter)
    assert tuple(int(word) for word in words) == expected


def test_threefry_equals_jax_on_many_counters():
    random = np.random.default_rng(0)
    x = random.integers(0, 2**32, 4096, dtype=np.uint32)
    for k0, k1 in random.integers(0, 2**32, (3, 2), dtype=np.uint32):
        ours = np.concatenate(compat.threefry_2x32(k0, k1, x[:2048], x[2048:]))
        theirs = jax.extend.random.threefry_2x32((jnp.uint32(k0), jnp.uint32(k1)), x)
        np.testing.assert_array_equal(ours, theirs)


def test_threefry_takes_one_key_per_element_and_equals_fold_in():
    keys = jax.random.split(jax.random.key(7), 5)
    words = jax.random.key_data(keys)
    ours = jnp.stack(compat.threefry_2x32(words[:, 0], words[:, 1], 0, jnp.arange(5)), axis=-1)
    theirs = jax.random.key_data(jax.vmap(jax.random.fold_in)(keys, jnp.arange(5)))
    np.testing.assert_array_equal(ours, theirs)


def test_threefry_takes_integers_modulo_2_to_32():
    assert int(compat.threefry_2x32(-1, 2**32 + 5, 0, 1)[0]) == int(compat.threefry_2x32(2**32 - 1, 5, 0, 1)[0])


def test_key_words_reads_typed_raw_and_pairs():
    for key in (jax.random.key(3), jax.random.PRNGKey(3), (0, 3), np.array([0, 3], np.uint32)):
        np.testing.assert_array_equal(compat.key_words(key), [0, 3])
    assert compat.key_words(jax.random.key(3, impl="rbg")).shape == (4,)


@pytest.mark.parametrize("key", [np.float32([0, 1]), np.uint32([1, 2, 3]), np.uint32(4)])
def test_key_words_refuses_what_is_no_key(key):
    with pytest.raises(BertJaxError, match="expected one typed key"):
        compat.key_words(key)


def test_mesh_axes_are_auto_and_can_be_set():
    mesh = compat.make_mesh((2, 4, 1), ("data", "fsdp", "tensor"))
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    with compat.set_mesh(mesh):
        assert float(jax.jit(lambda x: jnp.sum(x))(jnp.ones(8))) == 8


def test_slices_lie_along_the_first_axis(monkeypatch):
    class Chip:
        """What a TPU of several slices says of itself, as far as a mesh asks."""

        platform, device_kind, process_index = "tpu", "stub", 0

        def __init__(self, number):
            self.id, self.slice_index = number, number // 4

    chips = [Chip(number) for number in range(8)]
    seen = {}

    def arrange(inside, across, devices):
        seen.update(inside=inside, across=across)
        return np.array(devices, object).reshape(tuple(np.multiply(inside, across)))

    monkeypatch.setattr("jax.experimental.mesh_utils.create_hybrid_device_mesh", arrange)
    monkeypatch.setattr(jax.sharding, "Mesh", lambda arranged, names, axis_types: (arranged, names))
    arranged, _ = compat.make_mesh((4, 2, 1), ("data", "fsdp", "tensor"), chips)
    assert seen == {"inside": (2, 2, 1), "across": (2, 1, 1)}
    assert [[chip.slice_index for chip in row.ravel()] for row in arranged] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    with pytest.raises(BertJaxError, match="mesh data is 1: expected a multiple of the 2 TPU slices"):
        compat.make_mesh((1, 8, 1), ("data", "fsdp", "tensor"), chips)

    # GPUs count their nodes as slices too, and may be cut along any axis over them.
    monkeypatch.setattr(Chip, "platform", "gpu")
    monkeypatch.setattr(jax, "make_mesh", lambda sizes, names, axis_types, devices: sizes)
    assert compat.make_mesh((1, 8, 1), ("data", "fsdp", "tensor"), chips) == (1, 8, 1)


def test_programs_are_kept_under_the_cache_home(tmp_path, caplog):
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    compat.cache_programs(environment)
    folder = environment["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith(str(tmp_path / "bert_jax" / "programs-"))
    assert os.path.isdir(folder)
    assert environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] == "0"
    assert environment["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] == "-1"
    home = {"HOME": str(tmp_path / "me")}
    compat.cache_programs(home)
    assert home["JAX_COMPILATION_CACHE_DIR"].startswith(str(tmp_path / "me" / ".cache" / "bert_jax"))
    assert not caplog.records


def test_a_folder_that_the_user_chose_stays():
    environment = {"JAX_COMPILATION_CACHE_DIR": "mine", "XDG_CACHE_HOME": "other"}
    compat.cache_programs(environment)
    assert environment == {"JAX_COMPILATION_CACHE_DIR": "mine", "XDG_CACHE_HOME": "other"}


def test_no_cache_where_nothing_can_be_written(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    environment = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    compat.cache_programs(environment)
    assert "JAX_COMPILATION_CACHE_DIR" not in environment
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "compiled programs cannot be kept in" in caplog.text


@pytest.mark.parametrize(
    ("text", "figures"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 26.71G of 15.75G hbm. Exceeded hbm",
            (26.71 * 2**30, 15.75 * 2**30),
        ),
        (
            "RESOURCE_EXHAUSTED: memory required for HLO temporaries (360.50G) exceeds available HBM (30.75G).",
            (360.5 * 2**30, 30.75 * 2**30),
        ),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 30.1M of 16.0M vmem.", None),
        ("INVALID_ARGUMENT: Used 26.71G of 15.75G hbm", None),
    ],
)
def test_out_of_memory_is_told_from_other_errors(text: str, figures: tuple[float, float] | None) -> None:
    found = compat.out_of_memory(RuntimeError(text))
    assert found == (None if figures is None else tuple(int(size) for size in figures))


def test_figures_of_a_compiled_program() -> None:
    shape = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    compiled = compat.compile_program(jax.jit(lambda x: x @ x).lower(shape))
    found = compat.memory_figures(compiled)
    assert (found["arguments"], found["results"]) == (256 * 256 * 4, 256 * 256 * 4)
    size = compat.cost_bytes(compiled)
    assert size is None or size >= 2 * 256 * 256 * 4
