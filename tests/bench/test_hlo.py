"""Collectives read from HLO text: the forms that XLA's compilers for CPU, GPU and TPU write."""

import pytest

from tga_jax.bench import hlo

TEXT = """
HloModule jit_step

%inner (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %ar = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups=[1,4]<=[4], to_apply=%add
}

%body (t: (s32[], bf16[4,16])) -> (s32[], bf16[4,16]) {
  %w = bf16[1,16]{1,0} parameter(0)
  %ag = (bf16[1,16]{1,0}, bf16[4,16]{1,0}) all-gather-start(%w), dimensions={0}, metadata={op_name="jit(step)/up"}
  %agd = bf16[4,16]{1,0} all-gather-done(%ag)
  %while.2 = (s32[], f32[8]) while(%t), condition=%cond, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

%scattered (g: f32[4,16]) -> f32[1,16] {
  ROOT %rs = f32[1,16]{1,0} reduce-scatter(%g), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}, to_apply=%add
}

%piece.1 (x: f32[3]) -> f32[9] {
  ROOT %ag1 = f32[9]{0} all-gather(%x), channel_id=4, replica_groups=[1,3]<=[3], dimensions={0}
}

%piece.2 (x: f32[3]) -> f32[9] {
  ROOT %ag2 = f32[9]{0} all-gather(%x), channel_id=4, replica_groups=[1,3]<=[3], dimensions={0}
}

%less (t: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%tpu_body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %rs2 = bf16[3]{0:T(8,128)} reduce-scatter(%g), replica_groups=mesh['a'=2,'b'=5,'c'=3] {'a','c'}, to_apply=%add
}

ENTRY %main.9 (x: f32[2]) -> f32[2] {
  %both = ((f32[2]{0}, pred[3]{0}), (f32[8]{0}, pred[12]{0})) all-gather-start(%x, %y), dimensions={0}
  %while.1 = (s32[], bf16[4,16]) while(%x), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %s = ((f32[4,16]), f32[1,16], u32[]) async-start(%g), calls=%scattered
  %rss = ((f32[8,2], f32[16]), (f32[2,2], f32[4])) reduce-scatter-start(%g, %h), replica_groups=[2,4]<=[8]
  %cp = (s8[7]{0}, s8[7]{0}, u32[], u32[]) collective-permute-start(%z), source_target_pairs={{0,1}}
  %while.3 = (s32[]{:T(128)}, f32[8]) while(%x), condition=%less, body=%tpu_body, metadata={op_name="jit(step)/while"}
  %f1 = f32[9] fusion(%x), kind=kCustom, calls=%piece.1
  %f2 = f32[9] fusion(%f1), kind=kCustom, calls=%piece.2
  %a2a = (f32[2,3]{1,0}, f32[2,3]{1,0}) all-to-all(%q, %r), replica_groups={{0,1}}
}
"""


def test_every_kind_with_its_bytes_and_the_trips_of_its_loops():
    found = {(c.kind, c.sizes): (c.elements, c.times, c.op_name) for c in hlo.collectives(TEXT)}
    assert found == {
        ("all-gather", (128,)): ((64,), 5, "jit(step)/up"),
        ("all-reduce", (32,)): ((8,), 15, ""),  # a loop in a loop
        ("reduce-scatter", (256,)): ((64,), 1, ""),  # of four devices' parts
        ("reduce-scatter", (64, 64)): ((16, 16), 1, ""),  # begun, with what it takes
        ("reduce-scatter", (36,)): ((18,), 7, ""),  # the count is in the condition, the groups are axes of a mesh
        ("all-gather", (36,)): ((9,), 1, ""),  # one exchange in two fusions
        ("all-gather", (32, 12)): ((8, 12), 1, ""),  # two at once
        ("collective-permute", (7,)): ((7,), 1, ""),
        ("all-to-all", (24, 24)): ((6, 6), 1, ""),
    }


def test_a_loop_whose_first_turn_was_peeled_off():
    """As TPU's compiler leaves it for exchanges between slices: the counter starts from 1."""
    [found] = hlo.collectives("""
%less (t: (f32[8], s32[])) -> pred[] {
  %counter = s32[]{:T(128)} get-tuple-element(%t), index=1
  %limit = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%body (t: (f32[8], s32[])) -> (f32[8], s32[]) {
  %ar = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %one = s32[]{:T(128)} constant(1), metadata={op_name="add"}
  %copy.3 = s32[]{:T(128)} copy(%one)
  %start = (f32[8]{0:T(128)}, /*index=1*/s32[]{:T(128)}) tuple(%x, /*index=1*/%copy.3)
  %while.1 = (f32[8]{0:T(128)}, s32[]{:T(128)}) while(%start), condition=%less, body=%body
}
""")
    assert found.times == 6


def test_totals_tell_parameters_by_their_size():
    totals = hlo.totals(hlo.collectives(TEXT), parameters={64})
    assert totals["all-gather"] == {"parameters": 5 * 128, "activations": 80, "instructions": 7}
    assert totals["reduce-scatter"] == {"parameters": 256, "activations": 380, "instructions": 9}
    assert totals["all-reduce"] == {"parameters": 0, "activations": 480, "instructions": 15}


def test_a_tpus_reduce_scatter():
    """As its compiler writes it: each of 8 devices keeps its rows of a sum."""
    [found] = hlo.collectives("""
%all-reduce-scatter.3 (input: bf16[16,4]) -> bf16[2,4] {
  %all-reduce.5 = bf16[16,4]{1,0:T(8,128)} all-reduce(%input), channel_id=217, replica_groups={{0,1,2,3,4,5,6,7}}
  ROOT %dynamic-slice.6 = bf16[2,4]{1,0} dynamic-slice(%all-reduce.5, %m, %c), dynamic_slice_sizes={2,4}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %fusion.2 = bf16[2,4] fusion(%copy), kind=kCustom, calls=%all-reduce-scatter.3
}
""")
    assert (found.kind, found.elements, found.sizes) == ("reduce-scatter", (64,), (128,))


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("{{2,5},{0,1}}", (2, 5)),
        ("[4,2]<=[8]", (0, 1)),
        ("[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=1,'b'=4,'c'=1,'d'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}", (0, 4)),
        ("mesh['a'=8] {'a':(2)2}", (0, 2)),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
    ],
)
def test_the_devices_of_a_group(groups, first):
    """As Shardy's documentation of meshes and sub-axes, and XLA's of iota tile assignments, count them."""
    line = f"  %ar = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    [found] = hlo.collectives(f"ENTRY %main (x: f32[2]) -> f32[2] {{\n{line}\n}}")
    assert found.group == first


def test_what_crosses_from_slice_to_slice():
    """Of 8 devices in 2 slices: the groups that have devices of both, and what a TPU's hosts exchange."""
    send = (
        "%s = (f32[4,8]{1,0}, u32[], token[]) send(%x, %t), channel_id=3, is_host_transfer=true, frontend_attributes="
        '{_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_transfer_type="ALL_REDUCE"}'
    )
    found = hlo.collectives(f"""
%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {{
  {send}
  %r = (f32[4,8]{{1,0}}, u32[], token[]) recv(%t), channel_id=4, is_host_transfer=true
}}

ENTRY %main (x: f32[2]) -> f32[2] {{
  %while.1 = (s32[], f32[8]) while(%x), condition=%c, body=%body, backend_config={{"known_trip_count":{{"n":"5"}}}}
  %a = f32[100]{{0}} all-reduce(%p), channel_id=1, replica_groups={{{{0,4}},{{1,5}},{{2,6}},{{3,7}}}}, to_apply=%add
  %b = f32[7]{{0}} all-reduce(%p), channel_id=2, replica_groups=[2,4]<=[8], to_apply=%add
}}
""")
    assert hlo.between_slices(found, 8, 2) == 5 * 32 * 4 + 400
    assert hlo.totals(found, set())["all-reduce"] == {"parameters": 0, "activations": 428, "instructions": 2}


@pytest.mark.parametrize("text", ["", "ENTRY %main (x: f32[2]) -> f32[2] {\n  %y = f32[2] add(%x, %x)\n}"])
def test_a_program_without_any(text):
    assert hlo.collectives(text) == []
