"""The train step of one phase compiled for a TPU that is not there, in a process of its own.

libtpu aborts a process for some requests, reads its settings from the environment once, and looks for a machine's
metadata: so it is loaded by a child, `python -m bert_jax.scale.plan_compile`, which reads one request per line from
stdin and answers each with one line of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bert_jax.config import Config
from bert_jax.config_files import from_dict, to_dict
from bert_jax.errors import BertJaxError
from bert_jax.scale.topologies import Topology

if TYPE_CHECKING:
    from bert_jax.train.program import Program

# Neither a metadata server nor a TPU is looked for, and nothing is logged; two plans may run at once.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    # libtpu's own threads have 64 KiB of stack, too little for estimating fusions of fusions (remat full): it crashes.
    "LIBTPU_INIT_ARGS": "--default_thread_stack_size=1048576 --fibers_default_thread_stack_size=1048576",
}
_NOT_INHERITED = ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "JAX_NUM_CPU_DEVICES")


def require_libtpu() -> None:
    """Errors: `BertJaxError` that says what to install where the TPU compiler is missing."""
    if importlib.util.find_spec("libtpu") is None:
        raise BertJaxError(
            "plan needs the TPU compiler libtpu, which is not installed: pip install 'bert-jax[plan]' "
            "(Linux on x86-64 or ARM; figures for GPUs, --topology h200:8, need none)"
        )


class Compiler:
    """A child process that compiles train steps for one topology. A context manager; requests go one by one."""

    def __init__(self, topology: Topology, config: Config, vocabulary: int) -> None:
        require_libtpu()
        self._topology = topology
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - a pipe that nobody reads would fill up
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED} | ENVIRONMENT
        self._child = subprocess.Popen(
            [sys.executable, "-m", "bert_jax.scale.plan_compile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        self._send({"topology": list(topology), "config": to_dict(config), "vocabulary": vocabulary})

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout, self._said):
            with contextlib.suppress(BrokenPipeError):
                assert stream is not None
                stream.close()

    def compile(
        self, phase: int, batch: int, changes: Mapping[str, Any] | None = None, quick: bool = False
    ) -> dict[str, Any]:
        """What `compiled_figures` gives for `batch` sequences per step, with some fields of `train` changed.

        Errors: `BertJaxError` for what the configuration or the topology does not allow, and when the compiler dies.
        """
        return self._ask({"phase": phase, "batch": batch, "changes": dict(changes or {}), "quick": quick})

    def digest(self, phase: int, batch: int) -> str:
        """SHA-256 of the step as it is handed to the compiler, in seconds: equal ones compile to the same program.

        Errors: as of `compile`.
        """
        return str(self._ask({"phase": phase, "batch": batch, "digest": True})["program"])

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._send(request)
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise BertJaxError(f"the compiler gave up on {self._topology.name}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BertJaxError(answer["error"])
        return answer

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise BertJaxError(f"the compiler gave up on {self._topology.name}: {self._last_words()}") from None

    def _last_words(self) -> str:
        """Why the child ended: the check of libtpu that failed, or the last line it wrote."""
        code = self._child.wait()
        self._said.seek(0)
        said = self._said.read().splitlines()
        check = next((line.partition("Check failed: ")[2] for line in said if "Check failed: " in line), None)
        if check is not None:
            return f"libtpu does not know this shape, or does not allow it ({check.strip()[:200]})"
        crash = next((line.strip("* ").partition(" (")[0] for line in said if line.startswith("*** SIG")), None)
        if crash is not None:
            place = re.search(r"xla::[\w:]+", "".join(said))
            where = f" in {place[0]}" if place else ""
            return f"libtpu crashed ({crash}{where}): another batch, remat or accumulation, or a newer libtpu, may do"
        return f"exit code {code}, {said[-1].strip()[:200] if said else 'with nothing said'}"


def main() -> None:
    """Answer requests until stdin ends."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may write between the answers
    first = json.loads(sys.stdin.readline())
    topology = Topology(first["topology"][0], first["topology"][1], tuple(first["topology"][2]))
    config: Config = from_dict(first["config"])
    for line in sys.stdin:
        request = json.loads(line)
        answering = program_digest if request.pop("digest", False) else compiled_figures
        try:
            answer = answering(topology, config, first["vocabulary"], **request)
        except BertJaxError as error:
            answer = {"error": str(error)}
        except Exception as error:
            answer = {"error": f"compiling for {topology.name} failed: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _end_with(parent: int) -> None:
    """End this process when `parent` has: nobody waits for the answer, and a compilation takes minutes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def compiled_figures(
    topology: Topology,
    config: Config,
    vocabulary: int,
    *,
    phase: int,
    batch: int,
    changes: Mapping[str, Any],
    quick: bool = False,
) -> dict[str, Any]:
    """Compile the train step of one phase. Bytes are per device.

    `fits`, `hbm_bytes`, `arguments` and so on (see `compat.memory_figures`; absent when it does not fit), `collectives`
    (rows of kind, axis, bytes), `bytes_accessed`, `kernels` (calls of Pallas kernels in the program), `scanned`,
    `quick`, `dtype`, `attention` (engine and reason), `mesh`, `compile_seconds`, and of all cores together
    `compile_processor_seconds`.
    """
    from bert_jax import compat
    from bert_jax.scale.hlo_collectives import collectives

    start, used = time.perf_counter(), time.process_time()

    def seconds() -> dict[str, float]:
        return {
            "compile_seconds": time.perf_counter() - start,
            "compile_processor_seconds": time.process_time() - used,
        }

    program, lowered = lowered_step(topology, config, vocabulary, phase, batch, changes)
    figures: dict[str, Any] = {
        "mesh": {name: int(size) for name, size in program.mesh.shape.items()},
        "scanned": bool(program.choices["scan_layers"].value),
        "quick": quick,
        "dtype": str(program.choices["dtype"].value),
        "attention": list(program.choices["attention"]),
    }
    try:
        compiled = compat.compile_program(lowered, quick)
    except Exception as error:
        wanted = compat.out_of_memory(error)
        if wanted is None:
            raise
        return figures | {"fits": False, "hbm_bytes": wanted[0], "hbm_limit_bytes": wanted[1], **seconds()}
    memory = compat.memory_figures(compiled)
    text = compiled.as_text()
    rows = collectives(text, tuple(program.mesh.shape.values()), tuple(program.mesh.shape))
    return figures | {
        "fits": True,
        "hbm_bytes": sum(memory.values()),
        **memory,
        "collectives": [list(row) for row in rows],
        "bytes_accessed": compat.cost_bytes(compiled),
        "kernels": kernel_calls(text),
        **seconds(),
    }


def program_digest(topology: Topology, config: Config, vocabulary: int, *, phase: int, batch: int) -> dict[str, Any]:
    """`program`: SHA-256 of the lowered step of one phase, and of the slice it is for."""
    text = lowered_step(topology, config, vocabulary, phase, batch, {})[1].as_text()
    return {"program": hashlib.sha256(f"{topology.name}\n{text}".encode()).hexdigest()}


def lowered_step(
    topology: Topology, config: Config, vocabulary: int, phase: int, batch: int, changes: Mapping[str, Any]
) -> tuple[Program, Any]:
    """The program of one phase for a TPU slice, and its train step lowered. In the child only: it loads libtpu."""
    from bert_jax import compat
    from bert_jax.scale.plan_shapes import phase_program, step_shapes

    devices = compat.topology_devices(topology.name, topology.shape, topology.chip_name)
    program = phase_program(config, devices, vocabulary, phase, batch, changes)
    with compat.set_mesh(program.mesh):
        return program, program.compiled_train_step.lower(*step_shapes(program))


def kernel_calls(text: str) -> int:
    """Calls of Pallas kernels in a compiled program's text."""
    return text.count('custom_call_target="tpu_custom_call"')


if __name__ == "__main__":
    main()
