"""The launch scripts on machines this one is not: stub programs in front of PATH stand for what is there or missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parent.parent / "launch"


def stub(folder: Path, name: str, script: str) -> Path:
    """A program of that name; `$REAL` is the Python of these tests."""
    path = folder / name
    path.write_text(f"#!/bin/bash\nREAL={sys.executable}\n{script}\n")
    path.chmod(0o755)
    return path


def run(command: list[str], path: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "COLAB_RELEASE_TAG")}
    places = "/usr/bin:/bin" if path is None else f"{path}:/usr/bin:/bin"
    return subprocess.run(
        command, env={**kept, "PATH": places, **more}, capture_output=True, text=True, timeout=120, cwd="/"
    )


def shell(script: str, path: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """A line of shell after setup.sh was sourced."""
    return run(["bash", "-euo", "pipefail", "-c", f"source '{LAUNCH}/setup.sh'; {script}"], path, **more)


# A Python that installs nothing and keeps its stamp to itself.
QUIET_PIP = """
case "$*" in
  *sysconfig*) echo "$STAMPS" ;;
  "-m pip list"*) echo "jax==9.9.9"; echo "click==1.0" ;;
  "-m pip install"*) for each in "$@"; do [ -f "$each" ] && cp "$each" "$STAMPS/pins"; done; exit 0 ;;
  *) exec "$REAL" "$@" ;;
esac
"""


@pytest.mark.parametrize(
    ("device_file", "smi", "expected"),
    [
        ("/dev/accel*", "exit 9", "tpu a TPU's device files are there"),
        ("/dev/vfio/[0-9]*", "exit 9", "tpu a TPU's device files are there"),
        ("none", 'echo "GPU 0: NVIDIA T4 (UUID: GPU-1)"', "cuda an NVIDIA GPU is there"),
        ("none", 'echo "No devices were found"', "cpu neither a TPU (/dev/accel*, /dev/vfio) nor an NVIDIA GPU was"),
    ],
)
def test_what_is_there_is_found_and_named(tmp_path: Path, device_file: str, smi: str, expected: str) -> None:
    """The shell's own search for device files is replaced: it finds the one named."""
    stub(tmp_path, "nvidia-smi", smi)
    done = shell(f'compgen() {{ [ "$2" = "{device_file}" ]; }}; find_accelerator', tmp_path)
    if not Path("/dev/nvidia0").exists() or expected.startswith("tpu"):
        assert done.stdout.startswith(expected), done


def test_a_gpu_that_jax_does_not_see_stops_loudly(tmp_path: Path) -> None:
    stub(tmp_path, "nvidia-smi", 'echo "GPU 0: NVIDIA T4 (UUID: GPU-1)"')
    python = stub(tmp_path, "python3", QUIET_PIP)
    command = ["bash", str(LAUNCH / "quickstart.sh"), "--no-venv", "--run", str(tmp_path / "run")]
    done = run(command, tmp_path, PYTHON=str(python), STAMPS=str(tmp_path))
    assert done.returncode == 1
    assert "accelerator: cuda (an NVIDIA GPU is there" in done.stderr
    assert "error: a cuda is in this machine but JAX sees only a CPU" in done.stderr
    assert not (tmp_path / "run").exists()


def test_in_colab_the_running_python_keeps_its_jax(tmp_path: Path) -> None:
    python = stub(tmp_path, "python3", QUIET_PIP)
    command = ["bash", str(LAUNCH / "quickstart.sh"), "--cpu", "--config", "no_such_configuration"]
    done = run(command, tmp_path, PYTHON=str(python), STAMPS=str(tmp_path), COLAB_RELEASE_TAG="release-colab")
    assert "as it is; its jax stays" in done.stderr
    assert "accelerator: cpu (--cpu was given)" in done.stderr
    assert (tmp_path / "pins").read_text().split() == ["jax==9.9.9"]
    assert done.returncode == 1  # from the command itself: there is no such configuration
    assert "no configuration 'no_such_configuration'" in done.stderr


def test_virtualenv_makes_the_environment_where_venv_cannot(tmp_path: Path) -> None:
    script = """
case "$*" in
  "-c import ensurepip, venv") exit 1 ;;
  "-m virtualenv --quiet "*) mkdir -p "$4/bin"; echo made >"$4/pyvenv.cfg" ;;
  "-m virtualenv --version") exit %d ;;
  "-m pip "*) exit 1 ;;
  *) exec "$REAL" "$@" ;;
esac
"""
    python = stub(tmp_path, "python3", script % 0)
    assert shell(f"make_venv '{python}' '{tmp_path}/venv'").returncode == 0
    assert (tmp_path / "venv" / "pyvenv.cfg").is_file()

    python = stub(tmp_path, "python3", script % 1)
    done = shell(f"make_venv '{python}' '{tmp_path}/other'")
    assert done.returncode == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"install the package python{version}-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_only_a_virtual_environment_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    done = shell(f"make_venv '{sys.executable}' '{tmp_path}'")
    assert done.returncode == 1
    assert "is no virtual environment and not empty" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_an_old_python_is_named_as_such(tmp_path: Path) -> None:
    for name in ("python3", "python3.13", "python3.12", "python3.11", "python"):
        stub(tmp_path, name, "exit 1")
    done = shell("find_python", tmp_path)
    assert done.returncode == 1
    assert "no Python of version 3.11 or newer found" in done.stderr


def test_an_installation_is_made_once_per_state(tmp_path: Path) -> None:
    python = stub(tmp_path, "python3", QUIET_PIP)
    twice = f"install_package '{python}' '{LAUNCH.parent}' dev; install_package '{python}' '{LAUNCH.parent}' dev"
    done = shell(twice, STAMPS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("installing bert_jax[dev]") == 1


def test_a_python_without_tested_versions_takes_the_newest(tmp_path: Path) -> None:
    python = stub(tmp_path, "python3", QUIET_PIP)
    once = f"install_package '{python}' '{LAUNCH.parent}' dev"
    done = shell(once, STAMPS=str(tmp_path), BERT_JAX_CONSTRAINTS=str(tmp_path / "none.txt"))
    assert done.returncode == 0, done.stderr
    assert "taking the newest" in done.stderr


@pytest.mark.parametrize("script", ["quickstart.sh", "test.sh", "audit.sh"])
def test_help_names_every_option(script: str) -> None:
    done = run(["bash", str(LAUNCH / script), "--help"])
    assert done.returncode == 0
    options = {word.strip("|)") for line in (LAUNCH / script).read_text().splitlines() for word in line.split()[:1]}
    for option in (word for word in options if word.startswith("--") and len(word) > 2):
        assert option in done.stdout


@pytest.mark.ci  # three small steps are compiled
def test_the_gpu_script_leaves_json_and_a_table(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # the tests' eight devices
    done = subprocess.run(
        [str(LAUNCH / "bench_gpu.sh"), "--toy", "--out", f"{tmp_path}/out"],
        env={**kept, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads((tmp_path / "out" / f"{name}.json").read_text())["rows"] for name in SWEEPS]
    assert [[row.get("error") for row in found] for found in rows] == [[None]] * 3
    assert rows[2][0]["packing"] == 8 and rows[0][0]["dtype"] == "bfloat16"
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\n") >= 5 and "attention=xla" in table
    assert "Python" in (tmp_path / "out" / "machine.txt").read_text()


SWEEPS = ("base_short", "base_long", "large_packed")


def test_the_gpu_script_refuses_a_machine_without_one(tmp_path: Path) -> None:
    python = stub(tmp_path, "python", "echo cpu")
    done = run([str(LAUNCH / "bench_gpu.sh"), "--out", f"{tmp_path}/out"], PYTHON=str(python))
    assert (done.returncode, done.stderr) == (
        1,
        "error: jax sees no GPU here but cpu: install jax[cuda12], or give --toy\n",
    )
    assert not (tmp_path / "out").exists()
    done = run([str(LAUNCH / "bench_gpu.sh"), "--tiny"])
    assert (done.returncode, done.stderr) == (2, "error: unknown option --tiny: expected --out DIR or --toy\n")


AUDITED = {
    "good": [{"name": "a", "version": "1", "vulns": []}],
    "bad": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-7", "fix_versions": ["1.2"]}]}],
    "unknown": [{"name": "a", "skip_reason": "not found"}],
}


@pytest.mark.parametrize(
    ("kinds", "code", "said"),
    [
        (["good"], 0, "good: 1 of 1 packages looked up, 0 known weaknesses"),
        (["bad"], 1, "bad: a 1 has CVE-7, mended in 1.2"),
        (["unknown"], 3, "unknown: 0 of 1 packages looked up"),
        (["broken"], 3, "broken: 0 of 0 packages looked up"),
        (["unknown", "bad", "good"], 1, "a 1 has CVE-7"),
        (["good", "unknown"], 3, "unknown: 0 of 1"),
    ],
)
def test_known_weaknesses_of_the_pins_are_named(tmp_path: Path, kinds: list[str], code: int, said: str) -> None:
    for kind in kinds:
        (tmp_path / kind).write_text("a==1\n")
        (tmp_path / f"{kind}.json").write_text(json.dumps({"dependencies": AUDITED.get(kind, [])}))
    (tmp_path / "broken.json").write_text("")  # as when it ends with a traceback
    audit = stub(tmp_path, "audit", 'cat "$2.json"; echo "no such host" >&2; exit 1')
    files = [str(tmp_path / kind) for kind in kinds]
    done = run([str(LAUNCH / "audit.sh"), *files], BERT_JAX_PIP_AUDIT=str(audit), PYTHON=sys.executable)
    assert (done.returncode, said in done.stdout) == (code, True), done
    assert ("nothing could be looked up" in done.stderr) == bool({"unknown", "broken"} & {*kinds})


def test_a_file_of_pins_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run([str(LAUNCH / "audit.sh"), str(tmp_path / "none")], BERT_JAX_PIP_AUDIT="true", PYTHON=sys.executable)
    assert done.returncode == 1 and f"{tmp_path}/none: no such file" in done.stderr
