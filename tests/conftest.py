"""What all tests share: the outside data, eight CPU devices, one compilation cache for the whole session."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before jax is imported anywhere: meshes are tested on eight fake CPU devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    # Tiny programs spend their time in the compiler: without its optimisations they compile in half the time.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Each program is compiled once per session, however many tests, workers and child processes run it. jax reads this
# when it is imported, so a fixture would be too late.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="bert_jax_compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real corpora, vocabularies and reference values; tests that need it skip by name without it."""
    folder = Path(os.environ.get("BERT_JAX_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "SOURCES.tsv").is_file():
        pytest.skip(f"no test data at {folder}: set BERT_JAX_TEST_DATA to the folder that holds SOURCES.tsv")
    return folder


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """What the command line sets up for its log lines ends with the test: its stream is the test's own."""
    logger = logging.getLogger("bert_jax")
    before = list(logger.handlers), logger.propagate, logger.level
    yield
    logger.handlers[:], logger.propagate = before[0], before[1]
    logger.setLevel(before[2])
