"""A layout fills each group's vector without gaps, in an order that does not depend on the model's."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.groups import head_group, layout_of, modality_group

GROUPS = st.sampled_from(["shared", "modality:flair", "head:tumour", "private"])
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


@st.composite
def parameters(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...], str]]:
    pairs = draw(st.lists(st.tuples(SHAPES, GROUPS), min_size=1, max_size=12))
    return [(f"p{index}", shape, group) for index, (shape, group) in enumerate(pairs)]


def test_group_names() -> None:
    assert modality_group("flair") == "modality:flair"
    assert head_group("tumour") == "head:tumour"


@given(parameters())
def test_slots_fill_each_group_without_gaps(triples: list[tuple[str, tuple[int, ...], str]]) -> None:
    layout = layout_of(triples)

    for group, slots in layout.groups.items():
        ends = [slot.offset + slot.size for slot in slots]
        assert [slot.offset for slot in slots] == [0, *ends[:-1]]
        assert layout.size(group) == ends[-1]
    assert sorted(s.name for slots in layout.groups.values() for s in slots) == sorted(
        n for n, _, _ in triples
    )


@given(parameters())
def test_groups_are_sorted_and_parameters_keep_their_order(
    triples: list[tuple[str, tuple[int, ...], str]],
) -> None:
    layout = layout_of(triples)

    assert list(layout.groups) == sorted(layout.groups)
    for group, slots in layout.groups.items():
        assert [slot.name for slot in slots] == [name for name, _, owner in triples if owner == group]


def test_a_scalar_takes_one_element() -> None:
    assert layout_of([("temperature", (), "shared")]).size("shared") == 1


def test_digests_tell_layouts_apart() -> None:
    """Another name, shape, group or order is another digest; the same layout is the same one."""
    layouts = [
        [("a", (2, 3), "shared"), ("b", (2,), "shared")],
        [("c", (2, 3), "shared"), ("b", (2,), "shared")],
        [("a", (3, 2), "shared"), ("b", (2,), "shared")],
        [("a", (2, 3), "private"), ("b", (2,), "shared")],
        [("b", (2,), "shared"), ("a", (2, 3), "shared")],
    ]

    digests = [layout_of(triples).digest() for triples in layouts]

    assert len(set(digests)) == len(digests)
    assert layout_of(layouts[0]).digest() == digests[0]
