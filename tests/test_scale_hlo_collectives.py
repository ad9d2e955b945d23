"""Collectives are read from real compiled programs (eight CPU devices), and from lines as TPU programs have them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bert_jax import compat
from bert_jax.scale.hlo_collectives import Row, collectives

SIZES, AXES = (2, 2, 2), ("data", "fsdp", "tensor")


def compiled(function: Callable[..., jax.Array], given: PartitionSpec, result: PartitionSpec) -> list[Row]:
    """Collectives of `function` of a float32 (8, 64) array on a 2 × 2 × 2 mesh."""
    mesh = compat.make_mesh(SIZES, AXES, jax.devices()[:8])
    shape = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, given))
    with compat.set_mesh(mesh):
        program = jax.jit(function, out_shardings=NamedSharding(mesh, result)).lower(shape).compile()
    return collectives(program.as_text(), SIZES, AXES)


def test_a_sum_over_two_axes() -> None:
    rows = compiled(lambda x: x.sum(axis=0), PartitionSpec(("data", "fsdp")), PartitionSpec())
    assert [(row.kind, row.axis) for row in rows] == [("all-reduce", "data+fsdp")]
    assert rows[0].bytes == 2 * (64 * 4) * 3 / 4  # 64 float32 around a ring of four


def test_a_gather_over_one_axis() -> None:
    rows = compiled(lambda x: x + 1, PartitionSpec(None, "fsdp"), PartitionSpec())
    assert [(row.kind, row.axis) for row in rows] == [("all-gather", "fsdp")]
    assert rows[0].bytes == 8 * 64 * 4 / 2


def test_what_a_loop_repeats_is_counted_each_time() -> None:
    def looped(x: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            summed = jax.lax.with_sharding_constraint((x * carry.sum()).sum(axis=0), PartitionSpec())
            return carry + summed, None

        return jax.lax.scan(body, jnp.ones(64), None, length=5)[0]

    rows = compiled(looped, PartitionSpec("tensor"), PartitionSpec())
    over_tensor = sum(row.bytes for row in rows if row.axis == "tensor")
    assert over_tensor == pytest.approx(5 * (64 * 4), rel=0.01)


def program(*lines: str) -> str:
    return "\n".join(["ENTRY %main (x: f32[4]) -> f32[4] {", *lines, "}"])


@pytest.mark.parametrize(
    ("line", "kind", "axis", "size"),
    [
        (
            "  %r = (f32[8]{0:T(256)}, bf16[2,8]{1,0:T(8,128)}) all-reduce(%a, %b), replica_groups=[1,8]<=[8]",
            "all-reduce",
            "data+fsdp+tensor",
            2 * 64 * 7 / 8,
        ),
        ("  %r = f32[4]{0} reduce-scatter(%a), replica_groups={{0,2},{1,3},{4,6},{5,7}}", "reduce-scatter", "fsdp", 16),
        ("  %r = f32[4]{0} all-reduce-start(%a), replica_groups=[4,2]<=[2,4]T(1,0)", "all-reduce", "data", 16),
        (
            "  %s = (f32[4]{0}, f32[8]{0}) all-gather-start(%a), replica_groups=[4,2]<=[8]",
            "all-gather",
            "tensor",
            16,
        ),
        (
            "  %p = bf16[16]{0} collective-permute(%a), source_target_pairs={{0,4},{4,0},{1,5},{5,1}}",
            "collective-permute",
            "data",
            32,
        ),
        (
            "  %m = f32[4]{0} all-reduce(%a), replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add",
            "all-reduce",
            "data+fsdp",
            2 * 16 * 3 / 4,
        ),
        (
            "  %m = f32[4]{0} all-reduce(%a), replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b':(2)2}",
            "all-reduce",
            "fsdp",
            16,
        ),
        ("  %t = f32[8]{0} all-to-all(%a), replica_groups=[4,2]<=[8]", "all-to-all", "tensor", 16),
    ],
)
def test_lines(line: str, kind: str, axis: str, size: float) -> None:
    assert collectives(program(line), SIZES, AXES) == [Row(kind, axis, size, 1)]


def test_one_device_alone_sends_nothing() -> None:
    line = "  %r = f32[8]{0} all-reduce(%a), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"
    assert collectives(program(line), SIZES, AXES) == []
    assert collectives(program("  %d = f32[8]{0} all-gather-done(%r)"), SIZES, AXES) == []


def test_a_loop_without_a_count_runs_as_often_as_its_condition_says() -> None:
    text = """
%below (p: (s32[], f32[8])) -> pred[] {
  %limit.2 = s32[]{:T(128)} constant(24)
  %p = (s32[], f32[8]{0:T(256)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i, %limit.2), direction=LT, metadata={op_name="while/cond/lt"}
}

%body (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = f32[8]{0:T(256)} all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0:T(256)}) while(%t), condition=%below, body=%body
}
"""
    (row,) = collectives(text, (2, 2, 2), ("data", "fsdp", "tensor"))
    assert row == ("all-reduce", "data+fsdp+tensor", 24 * 2 * 32 * 7 / 8, 24)
