"""Packages, limits and folders: what does not fit, is too little or cannot be written to is said, with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import resource
from pathlib import Path

import pytest

from bert_jax.scale import doctor_machine
from bert_jax.scale.doctor_machine import Finding, extras, folders, limits, memory_bytes, packages


def a_package(folder: Path, name: str, version: str, *requirements: str) -> None:
    """Its metadata, as installers leave it."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir(parents=True)
    lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
    (place / "METADATA").write_text(
        "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines])
    )


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that are found beside the real ones."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_packages_here_fit_each_other() -> None:
    (found,) = packages()
    assert found.status == "good" and f"jax {importlib.metadata.version('jax')}" in found.found, found


def test_a_requirement_of_a_requirement_is_looked_at(installed: Path) -> None:
    a_package(installed, "bj-top", "1.0", "bj-middle>=2", "bj-extra; extra == 'more'", "bj-old; python_version < '3'")
    a_package(installed, "bj-middle", "2.1", "bj-below<3", "bj-gone>=1")
    a_package(installed, "bj-below", "3.0")
    found = {finding.found: finding for finding in packages("bj-top")}
    assert set(found) == {
        "bj-below 3.0, and bj-middle needs bj-below<3",
        "bj-middle needs bj-gone>=1, which is missing",
    }
    assert {finding.status for finding in found.values()} == {"failing"}
    assert {finding.fix for finding in found.values()} == {'pip install "bj-below<3"', 'pip install "bj-gone>=1"'}


def test_release_candidates_count(installed: Path) -> None:
    a_package(installed, "bj-top", "1.0", "bj-next>=2")
    a_package(installed, "bj-next", "2.1rc1")
    assert [finding.status for finding in packages("bj-top")] == ["good"]


def test_what_is_not_installed_itself_is_said() -> None:
    (found,) = packages("bj-nowhere")
    assert found.status == "note" and "requirements are not known" in found.found


def test_each_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine.importlib.util, "find_spec", lambda name: None if name == "tensorflow" else name)
    (found,) = extras()
    assert found.status == "note" and "without tensorflow there is no: tfds: sources" in found.found
    assert found.fix == 'pip install "bert-jax[tf]"'


def test_few_open_files_and_short_files_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {resource.RLIMIT_NOFILE: (256, 2048), resource.RLIMIT_FSIZE: (10**6, 10**6)}
    monkeypatch.setattr(resource, "getrlimit", given.__getitem__)
    found = list(limits())
    assert Finding("limits", "note", "only 256 open files", "ulimit -n 2048") in found
    assert [finding.found for finding in found if finding.status == "failing"] == [
        "files of at most 1,000,000 bytes: checkpoints end there"
    ]


def test_memory_is_no_more_than_the_machine_has() -> None:
    found = memory_bytes()
    assert found is not None and 0 < found <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_folder_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    (found,) = folders([str(tmp_path)])
    assert found.status in ("good", "note") and "MB/s as " in found.found
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path) -> None:
    (found,) = folders([str(tmp_path / "missing")])
    assert found.status == "failing" and f"cannot write {tmp_path}/missing: No such file" in found.found


def test_a_disk_that_gives_back_something_else_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_machine, "_PROBE_BYTES", 1 << 20)
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.pwrite(descriptor, b"????????????????", 1000))
    (found,) = folders([str(tmp_path)])
    assert found.status == "failing" and "what was written is not what is read back" in found.found
