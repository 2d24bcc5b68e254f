"""What the guides read, count, cost and log, by hand; and sizes at which guards against zero must not act."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides_support import HINGE, PAIR, batch_of, cos, normal, seen
from test_transport import sinkhorn

from tga_jax.guides import Cost, Guide, Instruction, Means, Paper, Released, States, Text, Tiled, Transport
from tga_jax.guides.transport import plan, rarity

WORDS = Tiled(vocab_weight=0.1)


@pytest.mark.parametrize(
    ("guide", "expected"),
    [
        (Paper(), Cost(7, 0)),
        (Released(), Cost(7, 0)),
        (Transport(), Cost(7, 0)),
        (Tiled(), Cost(20, 0)),
        (WORDS, Cost(20, 4)),
        (Instruction(), Cost(20, 0)),
    ],
)
def test_costs(guide, expected):
    """Of T = 20 positions, C = 7 caption positions and P = 4 image tokens."""
    assert guide.cost(20, 7, 4) == expected
    assert Cost() == (0, 0)


@pytest.mark.parametrize(
    ("guide", "all_captions", "without_the_first"),
    [
        (Paper(), {"pairs": 3, "hinges": 3}, {"pairs": 2, "hinges": 2}),
        (Transport(), {"pairs": 3}, {"pairs": 2}),
        (Tiled(), {"pairs": 3}, {"pairs": 2}),
        (WORDS, {"pairs": 3, "words": 9}, {"pairs": 2, "words": 6}),
        (Instruction(), {"pairs": 3}, {"pairs": 2}),
    ],
)
def test_counts(guide, all_captions, without_the_first):
    """Of four samples, three of them with an image; all have R, which is of no use without one."""
    batch = batch_of(PAIR, np.ones(4, bool))
    assert guide.counts(batch) == all_captions
    assert guide.counts(batch._replace(caption_mask=batch.caption_mask.at[0].set(False))) == without_the_first


def test_what_is_read():
    batch = batch_of(PAIR, HINGE)
    batch = batch._replace(caption_mask=batch.caption_mask.at[1].set(False))
    begin = [[True] * 3, [True, False, False], [True] * 3, [True] * 3]
    for guide in (Paper(), Transport()):
        tokens, valid, reads = guide.teacher(batch)
        np.testing.assert_array_equal(tokens, batch.caption_tokens)
        np.testing.assert_array_equal(valid, begin)
    assert isinstance(reads, States)
    student, teacher = Paper().student(batch), Paper().teacher(batch)
    assert isinstance(student, Means)
    np.testing.assert_array_equal(student.segments, np.stack([batch.image_mask, batch.retrieved_mask], 1))
    assert isinstance(teacher.reads, Means)
    np.testing.assert_array_equal(teacher.reads.segments, batch.caption_mask[:, None])
    for guide in (Tiled(), Instruction(), Transport()):
        assert guide.student(batch) == States()
    assert Tiled().teacher(batch)[1:] == Text(jnp.zeros(()), None, States())[1:]


def test_an_instruction_stands_between_the_last_picture_and_the_answer():
    """Pictures at 1, 2 and 4, an answer at 7 and padding at 8; one row is a prompt alone, another only pictures."""
    place = np.arange(9)
    image = np.isin(place, [1, 2, 4])
    batch = batch_of(np.ones(3, bool), np.ones(3, bool))._replace(
        image_mask=jnp.array([image, image, place < 8]),
        targets=jnp.array([place == 7, place < 0, place < 0]),
        valid=jnp.array([place < 8] * 3),
    )
    expected = [np.isin(place, [5, 6]), np.isin(place, [5, 6, 7]), place < 0]
    np.testing.assert_array_equal(Instruction().matched(batch), expected)
    assert Instruction().counts(batch) == {"pairs": 2}
    assert Tiled().counts(batch) == {"pairs": 3}


def test_defaults_and_limits_of_layers():
    assert [g.on(3).layers for g in (Paper(), Tiled(), Transport(), Instruction())] == [
        (1, 2, 3),
        (0,),
        (0,),
        (1, 2, 3),
    ]
    assert Paper(layers=(0, 4)).on(4).layers == (0, 4)
    with pytest.raises(ValueError, match=r"guide.layers: \(-1,\), expected layers from 0 up"):
        Tiled(layers=(-1,))
    with pytest.raises(ValueError, match=r"guide.layers: \(4,\), expected at most 3"):
        Tiled(layers=(4,)).on(3)
    with pytest.raises(ValueError, match=r"guide.layers: \(0, 4\), expected at most 3"):
        Tiled(layers=(0, 4)).on(3)
    assert Guide.of_kind("transport") == ("transport", Transport)
    for kind in (Tiled, Transport, Instruction):
        guide = kind()
        assert (guide.weight, guide.decay) == (1.0, "constant")
    assert (Tiled().vocab_weight, Transport().temperature, Transport().iterations) == (0.0, 0.1, 30)
    assert Transport(iterations=1).iterations == 1


def test_what_the_pooled_guides_log():
    guide = Paper(layers=(2, 5), pair_weight=3.0, hinge_weight=0.5)
    image, caption, retrieved = (normal(i, 2, 4, 5) for i in range(3))
    student = jnp.stack([image, retrieved], axis=2)
    value, found = guide.loss(seen(guide, batch_of(PAIR, HINGE), student, jnp.asarray(caption)[:, :, None], 0.5))
    near = np.array([[cos(image[j, b], caption[j, b]) for b in (0, 2, 3)] for j in range(2)])
    far = np.array([[cos(retrieved[j, b], caption[j, b]) for b in (0, 3)] for j in range(2)])
    expected = {
        "guide_pair": -near.mean(1).sum(),
        "guide_hinge": np.log1p(np.exp(far - near[:, [0, 2]])).mean(1).sum(),
        "cos_image_caption": near.mean(),
        "cos_image_caption/2": near[0].mean(),
        "cos_image_caption/5": near[1].mean(),
        # Against the caption of the sample before.
        "cos_mismatched": np.mean([cos(image[j, b], caption[j, b - 1]) for b in (0, 2, 3) for j in range(2)]),
    }
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=2e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(value, 3 * expected["guide_pair"] + 0.5 * expected["guide_hinge"], rtol=1e-5)


def test_what_transport_logs():
    guide = Transport(layers=(0, 2), weight=3.0, decay="linear", temperature=0.4, iterations=2)
    batch, states, words = batch_of(PAIR, HINGE), normal(3, 2, 4, 6, 5), normal(4, 2, 4, 3, 5)
    value, found = guide.loss(seen(guide, batch, jnp.asarray(states), jnp.asarray(words), 0.25))
    errors, sharp = [], []
    for j, b in np.ndindex(2, 4):
        if PAIR[b]:
            h, g = states[j, b, 1:4].astype(np.float64), words[j, b, 1:].astype(np.float64)
            distance = ((h[:, None] - g) ** 2).sum(-1) / (g**2).sum(-1).mean()
            pi = sinkhorn(distance, 0.4, 2)
            errors.append((pi * distance).sum())
            sharp.append((pi.max(1) / pi.sum(1)).mean())
    np.testing.assert_allclose(found["guide_error"], np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(found["guide_sharpness"], np.mean(sharp), rtol=1e-4)
    np.testing.assert_allclose(value, 3 * 0.75 * np.mean(errors), rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 0.0])
@pytest.mark.parametrize("guide", [Tiled(layers=(0,)), Instruction(layers=(0,)), Transport()], ids=lambda g: g.kind)
def test_relative_errors_are_so_at_any_size_and_finite_at_none(guide, scale):
    batch, states = batch_of(PAIR, HINGE), jnp.asarray(normal(5, 1, 4, 6, 5))
    teacher = jnp.asarray(normal(6, 1, 4, *((3, 5) if isinstance(guide, Transport) else (6, 5))))

    def loss(h, g):
        return guide.loss(seen(guide, batch, h, g, 0.0))[0]

    value, grads = jax.value_and_grad(loss)(scale * states, scale * teacher)
    assert np.isfinite(value)
    assert np.all(np.isfinite(grads))
    np.testing.assert_allclose(value, loss(states, teacher) if scale else 0.0, rtol=1e-4)


@pytest.mark.parametrize("iterations", [1, 2])
def test_a_plan_is_what_so_many_iterations_give_whatever_the_unit_of_mass(iterations):
    distance, masses = np.abs(normal(7, 1, 4, 3)), np.array([[0.5, 1.0, 3.0]], np.float32)
    expected = sinkhorn(distance[0].astype(np.float64), 0.3, iterations, masses[0])
    for unit in (1.0, 1e-4):
        tokens = jnp.full((1, 4), unit)
        found = plan(jnp.asarray(distance), tokens, jnp.asarray(unit * masses), 0.3, iterations)
        np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_word_0_is_a_word():
    captions = jnp.array([[0, 2], [0, -1]])
    np.testing.assert_allclose(rarity(captions, captions)[0], np.log(3 / np.array([2, 1])), rtol=1e-6)
    alone = jnp.array([[0]])
    np.testing.assert_allclose(rarity(alone, alone), [[np.log(2)]], rtol=1e-6)


@pytest.mark.parametrize(
    "guide",
    [Paper(layers=(0,)), Released(layers=(0,)), Tiled(vocab_weight=0.5), Instruction(layers=(0,)), Transport()],
    ids=lambda guide: guide.kind,
)
def test_a_sample_without_a_caption_has_no_term_and_no_gradient(guide):
    """The last one of four that `batch_of` gives all that a guide compares."""
    batch = batch_of(PAIR, HINGE)
    batch = batch._replace(caption_mask=batch.caption_mask.at[3].set(False))
    means = isinstance(guide.student(batch), Means)
    student = jnp.asarray(normal(8, 1, 4, 2 if means else 6, 5))
    teacher = jnp.asarray(normal(9, 1, 4, 1 if means else 3 if isinstance(guide, Transport) else 6, 5))
    table = jnp.asarray(normal(10, 9, 5))

    def loss(student, rows):
        own = jax.tree.map(lambda x: x[:rows], batch)
        given = student[:, :rows], teacher[:, :rows]
        return guide.loss(seen(guide, own, *given, 0.0, inputs=student[0, :rows], embeddings=table))[0]

    np.testing.assert_allclose(loss(student, 4), loss(student, 3), rtol=1e-6)
    grads = jax.grad(loss)(student, 4)
    assert np.all(np.isfinite(grads))
    assert not np.any(grads[:, 3])
    assert np.any(grads[:, 2])
