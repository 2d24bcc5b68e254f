"""Batches: every sample once an epoch over any number of hosts, by length, resumed, cut or skipped by policy."""

import dataclasses
import itertools

import grain
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from tga_jax.data.pipeline import WINDOW, Batches, Policy, Shape, endless, iterate
from tga_jax.data.templates import IMAGE, Record
from tga_jax.data.tokens import Vocabulary
from tga_jax.demo.world import tasks
from tga_jax.errors import UserError

WORDS = [f"w{i}" for i in range(64)]
VOCABULARY = Vocabulary(tasks.build_tokenizer(WORDS))
FIRST = VOCABULARY.encode("w0")[0]


def picture(number: int) -> np.ndarray:
    if number % 10 == 7:
        raise UserError("7.png: cannot be read as an image")
    return np.full((2, 2, 3), number, np.uint8)


def record(number: int) -> Record:
    """Says its number; every third has a picture, every fifth two; lengths from 8 to 20."""
    images = tuple(lambda: picture(number) for _ in range((number % 3 == 0) + (number % 5 == 0)))
    question = " ".join([IMAGE] * len(images) + ["w1"] * (number % 7))
    return Record(f"s{number}", ((question, WORDS[number]),), images, caption="w1 " * (number % 3))


def batches(count=30, batch_size=4, lengths=(9, 12, 24), seed=5, pack=1, **fields) -> Batches:
    policy = fields.pop("policy", Policy(missing="skip"))
    records = endless(range(count), seed).map(record)
    return Batches(records, VOCABULARY, Shape(lengths, 3, 6, pack=pack), batch_size, seed, policy, **fields)


# lengths, pack
SHAPES = pytest.mark.parametrize(("lengths", "pack"), [((24,), 1), ((9, 12, 24), 1), ((26, 30, 48), 2)])


def numbers(batch) -> list[int]:
    """What the rows say: the first learnt word. -1: the row is empty."""
    words = [row[mask][0] if mask.any() else -1 for row, mask in zip(batch.tokens, batch.targets, strict=True)]
    order = {VOCABULARY.encode(word)[0]: i for i, word in enumerate(WORDS)}
    return [order.get(int(word), -1) for word in words]


def equal(one, two) -> bool:
    same = [a is b if a is None or b is None else np.array_equal(a, b) for a, b in zip(one, two, strict=True)]
    return all(same)


def readable(number: int) -> bool:
    return number % 10 != 7 or not record(number).images


@pytest.mark.parametrize("hosts", [1, 2])
@SHAPES
def test_every_sample_once_an_epoch(hosts, lengths, pack):
    """64 samples are one window of 16 batches of 4, or 16 windows of one."""
    count = WINDOW * 4
    shares = [batches(count, lengths=lengths, pack=pack, host=h, hosts=hosts) for h in range(hosts)]
    for epoch in range(2):
        seen = [n for step in range(WINDOW) for share in shares for n in numbers(share[epoch * WINDOW + step])]
        assert len(seen) == count
        assert sorted(n for n in seen if n >= 0) == [n for n in range(count) if readable(n)]
    first, second = ([numbers(shares[0][epoch * WINDOW + i]) for i in range(WINDOW)] for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize("hosts", [2, 4])
@SHAPES
def test_hosts_share_a_batch_and_its_shape(hosts, lengths, pack):
    """The h-th part of the one host's batch is host h's, in order; all hosts compile the same program, also one whose
    rows have fewer pictures than another's, or none."""
    shape = {"batch_size": 8, "lengths": lengths, "pack": pack}
    whole, shares = batches(**shape), [batches(**shape, host=h, hosts=hosts) for h in range(hosts)]
    for number in range(2 * WINDOW):
        for host, share in enumerate(shares):
            assert equal(share[number], jax.tree.map(lambda x, h=host: np.split(x, hosts)[h], whole[number]))


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 9), st.integers(0, 40))
def test_lengths_are_the_least_that_hold_a_batch(batch_size, count, seed, number):
    made = batches(count, batch_size, seed=seed)[number]
    longest = int(made.valid.sum(1).max())
    assert made.tokens.shape == (batch_size, made.tokens.shape[1])
    shape = made.tokens.shape[1]
    assert shape in (9, 12, 24)
    assert longest <= shape
    if all(n >= 0 for n in numbers(made)):  # of an empty row the length is not seen
        assert not any(longest <= n < shape for n in (9, 12, 24))


def test_sorting_by_length_saves_padding():
    def padding(lengths) -> float:
        made = batches(64, 8, lengths=lengths)
        return float(np.mean([1 - made[i].valid.mean() for i in range(WINDOW)]))

    assert padding((9, 12, 15, 18, 24)) < 0.5 * padding((24,))


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("start", [0, 3, 21])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("pack", [1, 2])
def test_resumed_equals_uninterrupted(hosts, start, threads, pack):
    shape = {"lengths": (9, 12, 24), "pack": 1} if pack == 1 else {"lengths": (26, 30, 48), "pack": 2}
    for host in range(hosts):
        made = batches(host=host, hosts=hosts, **shape)
        whole = itertools.islice(iterate(made, threads), start, start + 20)
        rest = itertools.islice(iterate(batches(host=host, hosts=hosts, **shape), threads, start=start), 20)
        assert all(equal(a, b) for a, b in zip(whole, rest, strict=True))


def test_other_processes_read_the_same():
    read = list(itertools.islice(iterate(batches(), processes=2, start=3), 20))
    assert all(equal(a, b) for a, b in zip(read, itertools.islice(iterate(batches()), 3, 23), strict=True))


def test_an_error_in_another_process_is_the_same_line():
    made = Batches(endless([LONG], 0), VOCABULARY, Shape((10,), 3, 6), 4, 0)
    with pytest.raises(UserError) as error:
        next(iter(iterate(made, processes=1)))
    assert str(error.value) == "sample 'long': 22 tokens, expected at most 10"


def test_the_same_seed_gives_the_same_batches_and_another_does_not():
    assert all(equal(batches()[i], batches()[i]) for i in (0, 40))
    assert numbers(batches()[0]) != numbers(batches(seed=6)[0])


def test_sources_are_mixed_by_weight():
    ours = grain.MapDataset.mix([endless(range(10), 0), endless(range(30, 60), 1)], weights=[0.25, 0.75]).map(record)
    made = Batches(ours, VOCABULARY, Shape((24,), 3, 6), 8, 0, Policy(missing="skip"))
    seen = [n for i in range(25) for n in numbers(made[i]) if n >= 0]
    assert np.mean([n < 10 for n in seen]) == pytest.approx(0.25, abs=0.04)


def test_pictures_go_with_their_rows():
    made = batches(lengths=(24,))
    for number in range(30):
        batch = made[number]
        for row, own in enumerate(numbers(batch)):
            if own >= 0:
                images = len(record(own).images)
                assert batch.image_mask[row].sum() == 3 * images
                assert batch.images is None or (batch.images[row, :images] == own).all()


def test_an_unreadable_image_fails_or_leaves_its_row_empty():
    found = next(i for i in range(99) if any(n < 0 for n in numbers(batches(lengths=(24,))[i])))
    batch = batches(lengths=(24,))[found]
    empty = [i for i, n in enumerate(numbers(batch)) if n < 0]
    for mask in (batch.valid, batch.targets, batch.image_mask, batch.caption_mask, batch.retrieved_mask):
        assert not mask[empty].any()
    assert batch.valid.any(1).sum() == 4 - len(empty)
    with pytest.raises(UserError, match=r"^sample 's(7|27|57|\d*7)': 7\.png: cannot be read as an image$"):
        batches(lengths=(24,), policy=Policy())[found]


LONG = Record("long", ((f"{IMAGE}\nw1 w1 w1", "w2 w3 w4"), ("w5 w5 w5 w5", "w6")), (lambda: picture(1),))


@pytest.mark.parametrize(
    ("length", "policy", "named"),
    [
        (10, Policy(), "sample 'long': 22 tokens, expected at most 10"),
        (3, Policy(too_long="cut"), "sample 'long': cut to 3 tokens it loses a part of an image"),
        (9, Policy(too_long="cut"), "sample 'long': cut to 9 tokens it has no target left"),
    ],
)
def test_a_sample_too_long_is_named(length, policy, named):
    made = Batches(endless([LONG], 0), VOCABULARY, Shape((length,), 3, 6), 1, 0, policy)
    with pytest.raises(UserError) as error:
        made[0]
    assert str(error.value) == named


def test_a_sample_too_long_may_be_cut():
    whole, cut = (
        Batches(endless([LONG], 0), VOCABULARY, Shape((n,), 3, 6), 1, 0, Policy(too_long="cut"))[0] for n in (22, 12)
    )
    assert whole.valid.all()
    np.testing.assert_array_equal(cut.tokens, whole.tokens[:, :12])
    np.testing.assert_array_equal(cut.targets, whole.targets[:, :12])


def test_a_caption_too_long_is_named():
    found = dataclasses.replace(LONG, caption="w1 w2 w3 w4 w5 w6")
    with pytest.raises(UserError, match="sample 'long': caption of 6 tokens, expected under 6"):
        Batches(endless([found], 0), VOCABULARY, Shape((24,), 3, 6), 1, 0)[0]


@pytest.mark.parametrize("lengths", [(), (9, 9), (12, 9)])
def test_lengths_must_ascend(lengths):
    with pytest.raises(UserError, match=r"data\.lengths: .*, expected ascending lengths"):
        Shape(lengths, 3, 6)


def test_hosts_must_divide_the_batch():
    with pytest.raises(UserError, match="batch_size: 4, expected a multiple of the 3 hosts"):
        batches(hosts=3)


@pytest.mark.parametrize("field", ["too_long", "missing"])
def test_an_unknown_policy_is_named(field):
    with pytest.raises(ValueError, match=f"data.policy.{field}: 'ignore', expected fail or"):
        Policy(**{field: "ignore"})


def test_labels_choose_the_length_too_and_name_the_positions():
    """Two targets a row; the first length has room for one label alone."""
    records = endless(range(30), 5).map(record)
    made = Batches(records, VOCABULARY, Shape((12, 24), 3, 6, (1, 5)), 4, 5, Policy(missing="skip"))
    plain = batches(lengths=(12, 24))
    for number in range(WINDOW):
        batch, other = made[number], plain[number]
        assert batch.tokens.shape == (4, 24)
        assert batch.label_positions.shape == (4, 5)
        assert other.label_positions is None
        for positions, targets in zip(batch.label_positions, batch.targets, strict=True):
            found = positions[positions >= 0]
            np.testing.assert_array_equal(found + 1, np.flatnonzero(targets))
            assert (positions[len(found) :] == -1).all()
        np.testing.assert_array_equal(batch.tokens[:, : other.tokens.shape[1]], other.tokens)


@pytest.mark.parametrize(("labels", "taken"), [((4, 4, 10), {18, 19, 48}), ((3, 4, 10), {19, 48})])
def test_samples_that_share_a_row_stand_side_by_side(labels, taken):
    """In the least length that holds the fullest row and its labels."""
    records = endless(range(30), 5).map(record)
    shape = Shape((18, 19, 48), 3, 6, labels, pack=2)
    made = Batches(records, VOCABULARY, shape, 6, 5, Policy(missing="skip"))
    seen = set()
    for number in range(WINDOW):
        batch = made[number]
        assert batch.tokens.shape == (6, 24)
        lengths = batch.valid.sum(1).reshape(3, 2)
        seen.add(batch.rows.shape[1])
        assert batch.label_positions.shape == (3, labels[shape.lengths.index(batch.rows.shape[1])])
        for row in range(3):
            own = batch.rows[row][batch.rows[row] >= 0]
            assert len(own) == lengths[row].sum()
            assert (batch.rows[row, len(own) :] == -1).all()
            expected = [batch.tokens[2 * row + k, : lengths[row, k]] for k in range(2)]
            np.testing.assert_array_equal(batch.tokens[2 * row : 2 * row + 2].ravel()[own], np.concatenate(expected))
            at = batch.label_positions[row]
            targets = batch.targets[2 * row : 2 * row + 2].ravel()[own]
            np.testing.assert_array_equal(at[at >= 0] + 1, np.flatnonzero(targets))
    assert seen == taken


def test_what_shared_rows_need():
    with pytest.raises(UserError, match=r"batch_size: 6, expected a multiple of the 2 hosts times data\.pack=2"):
        batches(batch_size=6, pack=2, hosts=2)
    with pytest.raises(UserError, match="sample 'long': 22 tokens, expected at most 21"):
        Batches(endless([LONG], 0), VOCABULARY, Shape((43,), 3, 6, pack=2), 2, 0)[0]
    with pytest.raises(UserError, match=r"sample 's\d+': 2 targets, expected at most 1 \(data.labels\)"):
        Batches(endless(range(30), 5).map(record), VOCABULARY, Shape((48,), 3, 6, (3,), 2), 4, 5)[0]


def test_more_labels_than_there_is_room_for_are_named():
    records = endless(range(30), 5).map(record)
    with pytest.raises(UserError, match=r"sample 's\d+': 2 targets, expected at most 1 \(data.labels\)"):
        Batches(records, VOCABULARY, Shape((24,), 3, 6, (1,)), 4, 5)[0]
    with pytest.raises(UserError, match=r"data.labels: \(1, 2\), expected a positive number for each of \(24,\)"):
        Shape((24,), 3, 6, (1, 2))
