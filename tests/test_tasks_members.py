"""The members of a run, and which of them share a program."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import pytest
from small_models import small_config

from bert_jax.config import Mesh
from bert_jax.errors import BertJaxError
from bert_jax.finetune_config import Finetune, FinetuneConfig
from bert_jax.tasks import members
from bert_jax.tasks.members import fitting_members, groups_of, members_of
from bert_jax.train.sharding import make_mesh


def config(**own: Any) -> FinetuneConfig:
    return FinetuneConfig(finetune=Finetune(**own))


def sizes(settings: FinetuneConfig, mesh: Mesh, devices: int = 8) -> list[int]:
    laid_out = make_mesh(mesh, jax.devices()[:devices])
    groups = groups_of(None, members_of(settings), settings, laid_out, small_config())
    assert [member for group in groups for member in group] == list(members_of(settings))
    return [len(group) for group in groups]


def test_every_seed_with_every_rate() -> None:
    found = members_of(config(seed=3, seeds=2, learning_rates=(1e-5, 3e-5)))
    assert [(member.label, member.seed, member.learning_rate) for member in found] == [
        ("seed-3-lr-1e-05", 3, 1e-5),
        ("seed-4-lr-1e-05", 4, 1e-5),
        ("seed-3-lr-3e-05", 3, 3e-5),
        ("seed-4-lr-3e-05", 4, 3e-5),
    ]
    with pytest.raises(BertJaxError, match="expected different ones"):
        members_of(config(learning_rates=(1e-5, 1e-5)))


def test_as_many_as_asked_for_share_a_program() -> None:
    assert sizes(config(seeds=5, side_by_side=2), Mesh(data=1), devices=1) == [2, 2, 1]
    assert sizes(config(seeds=5, side_by_side=9), Mesh(data=8)) == [5]


def test_on_cpus_one_for_each_of_them() -> None:
    assert sizes(config(seeds=3), Mesh(data=1), devices=1) == [1, 1, 1]
    assert sizes(config(seeds=10), Mesh(data=8)) == [8, 1, 1]


@pytest.mark.parametrize("mesh", [Mesh(data=4, fsdp=2), Mesh(data=2, tensor=4)])
def test_on_a_mesh_that_cuts_parameters_one_at_a_time(mesh: Mesh) -> None:
    assert sizes(config(seeds=9), mesh) == [1] * 9


def test_where_memory_holds_several_they_are_multiples_of_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "fitting_members", lambda *_: 2)
    assert sizes(config(seeds=21), Mesh(data=8)) == [16, 2, 2, 1]


def test_memory_of_a_device_of_its_own_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accelerator:
        platform = "gpu"

        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 80 * 2**30}

    monkeypatch.setattr(jax, "local_devices", lambda: [Accelerator()])
    base = dataclasses.replace(
        small_config(), hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
    )
    mesh = make_mesh(Mesh(data=8))
    few, many = (fitting_members(config(batch=batch), base, mesh) for batch in (256, 16))
    assert 1 <= few < many < 80 * 2**30 / (20 * 85e6)  # 85 million parameters in the layers, 20 bytes each at least


def test_a_run_keeps_its_groups() -> None:
    settings = config(seeds=3)
    laid_out = make_mesh(Mesh(data=1), jax.devices()[:1])

    class Begun:
        path = "run"
        facts = {"groups": [["seed-0", "seed-2"], ["seed-1"]], "members": ["seed-0", "seed-2", "seed-1"]}  # noqa: RUF012

    groups = groups_of(Begun(), members_of(settings), settings, laid_out, small_config())  # type: ignore[arg-type]
    assert [[member.label for member in group] for group in groups] == Begun.facts["groups"]
    with pytest.raises(BertJaxError, match="run has members seed-0, seed-2, seed-1: give the same seeds"):
        groups_of(Begun(), members_of(config(seeds=2)), settings, laid_out, small_config())  # type: ignore[arg-type]
