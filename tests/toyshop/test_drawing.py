import itertools
import random
import statistics

import numpy as np
import pytest

from lavic.toyshop.drawing import draw
from lavic.toyshop.kinds import BACKGROUNDS, COLOURS, KINDS, PATTERNS, Look
from lavic.toyshop.outlines import curve, rounded, turned
from lavic.toyshop.scene import arrange, crop
from lavic.toyshop.silhouettes import silhouette
from lavic.toyshop.textures import TWO_TONE_SHARE, PatternPlan, backdrop, jittered, plan_pattern, second_tone

EVERY_DETAIL = [(kind.name, detail) for kind in KINDS.values() for detail in kind.details]


def small(look: Look, seed: int) -> np.ndarray:
    """[80, 80, 3]: what the small vision model gets to see."""
    return np.asarray(draw(look, random.Random(seed)).resize((80, 80)), dtype=np.float64)


def test_the_same_seed_draws_the_same_pixels_and_another_seed_others():
    look = Look("mug", "red", "striped", "a lid", "a wooden table")
    first, again, other = (draw(look, random.Random(seed)).tobytes() for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_drawing_leaves_the_global_random_states_alone():
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    draw(Look("cap", "blue", "dotted", "a wide brim", "a mint backdrop"), random.Random(0))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


@pytest.mark.parametrize("size", [40, 224, 336])
def test_the_picture_has_the_size_asked_for(size):
    look = Look("vase", "green", "zigzag", "a dried branch", "a pale grey backdrop")
    image = draw(look, random.Random(0), size=size)
    assert (image.mode, image.size) == ("RGB", (size, size))


@pytest.mark.parametrize("kind", KINDS)
def test_every_detail_of_a_kind_is_seen_at_80_px(kind):
    # Same seed: place, turn and light are alike, so what differs is the detail (and the scale it entails).
    pictures = [small(Look(kind, "blue", "plain", detail, "a mint backdrop"), 3) for detail in KINDS[kind].details]
    for first, second in itertools.combinations(pictures, 2):
        differing = np.abs(first - second).max(axis=2) > 40
        assert differing.sum() > 100  # of 6,400 pixels


@pytest.mark.parametrize("pattern", PATTERNS)
def test_most_of_the_product_has_the_named_colour(pattern):
    for (kind, colour), seed in zip(itertools.product(KINDS, COLOURS), itertools.count()):
        detail = KINDS[kind].details[seed % 3]
        product = _product_pixels(Look(kind, colour, pattern, detail, "a pale grey backdrop"), seed)
        assert _nearest_colour(product) == colour, (kind, colour, detail, seed)


def _product_pixels(look: Look, seed: int) -> np.ndarray:
    """[N, 3]: the pixels that carry colour or pattern, found by repeating the picture's own draws."""
    picture = np.asarray(draw(look, random.Random(seed), size=112), dtype=np.float64)
    rng = random.Random(seed)
    jittered(look.colour, rng)
    plan_pattern(look.pattern, rng)
    shape = silhouette(look.kind, look.detail)
    scene = arrange(shape, rng, 112)
    free = np.zeros((112, 112), dtype=bool)
    for part in shape.parts:
        place = crop(part, scene)
        seen = free[place.rows, place.columns]
        coloured = part.material in ("body", "colour")
        seen[:] = seen | (place.alpha > 0.99) if coloured else seen & (place.alpha < 0.01)
    return picture[free]


def _nearest_colour(pixels: np.ndarray) -> str:
    names = list(COLOURS)
    away = np.stack([np.abs(pixels - COLOURS[name]).sum(axis=1) for name in names])
    votes = np.bincount(away.argmin(axis=0), minlength=len(names))
    return names[int(votes.argmax())]


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("plain", 0, 0),
        ("striped", 0.34, 0.38),
        ("zigzag", 0.36, 0.40),
        ("dotted", 0.28, 0.32),
        ("checked", 0.36, 0.40),
    ],
)
def test_the_second_tone_covers_less_than_half(pattern, least, most):
    # Areas by hand: stripes 0.36; zigzag 0.38; dots pi 0.31² = 0.30; squares 2 (2 x 0.2175)² = 0.38.
    y, x = np.mgrid[0:400, 0:400].astype(np.float32)
    plan = PatternPlan(pattern, 10.0, 0.0, 0.0, 0.0)
    share = second_tone(plan, x, y, 400, np.ones_like(x))
    assert share.dtype == np.float32
    assert least <= share.mean() <= most


def test_two_tone_splits_the_body_by_area_whatever_its_shape():
    y, x = np.mgrid[-100:100, -100:100].astype(np.float32)
    triangle = (np.abs(x) < (y + 100) / 2).astype(np.float32)
    plan = PatternPlan("two-tone", 1.0, 0.0, 0.0, 0.0)
    share = second_tone(plan, x, y, 200, triangle)
    assert (share * triangle).sum() / triangle.sum() == pytest.approx(TWO_TONE_SHARE, abs=0.01)
    assert share[-1].min() == 1
    assert share[0].max() == 0


@pytest.mark.parametrize(("kind", "detail"), EVERY_DETAIL)
def test_the_whole_product_is_in_the_picture_and_fills_it(kind, detail):
    shape = silhouette(kind, detail)
    for seed in range(20):
        scene = arrange(shape, random.Random(seed), 224)
        placed = np.vstack([scene.place(part.points) for part in shape.parts])
        assert placed.min() >= 0
        assert placed.max() <= 224
        assert np.ptp(placed, axis=0).max() >= 0.60 * 224


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_backgrounds_are_pale_beside_the_products(background):
    picture = backdrop(background, 224, 0.55, 0.0, 0)
    saturation = 1 - picture.min(axis=2) / picture.max(axis=2)
    assert saturation.mean() < 0.25
    assert picture.mean() > 150


def test_backgrounds_differ_from_one_another():
    means = [backdrop(name, 224, 0.55, 0.0, 0).mean(axis=(0, 1)) for name in BACKGROUNDS]
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(means, 2)) > 25


def test_a_curve_passes_through_its_knots():
    knots = [(0.0, 0.0), (1.0, 0.5), (2.0, 0.0), (1.0, -1.0)]
    line = curve(*knots, steps=8)
    assert line[::8].tolist() == [list(knot) for knot in knots]


def test_rounding_keeps_a_square_inside_itself_and_symmetric():
    line = rounded((-1, -1), (1, -1), (1, 1), (-1, 1), radius=0.5)
    assert np.abs(line).max() <= 1
    assert line.mean(axis=0) == pytest.approx([0, 0], abs=1e-9)


def test_a_closed_top_bulges_up_and_an_open_one_down():
    rows = [(-1.0, 0.5), (1.0, 0.5)]
    opened = turned(*rows, bend=0.2, smooth=False)
    closed = turned(*rows, bend=0.2, smooth=False, closed_top=True)
    assert opened[:, 1].min() == -1.0
    assert closed[:, 1].min() == pytest.approx(-1.1, abs=0.01)


def test_lying_products_turn_further_than_standing_ones():
    turn = {}
    for kind in ("cushion", "mug"):
        shape = silhouette(kind, KINDS[kind].details[0])
        angles = [abs(arrange(shape, random.Random(seed), 224).angle) for seed in range(200)]
        turn[kind] = np.degrees(max(angles))
        assert statistics.fmean(angles) > 0
    assert 10 < turn["cushion"] <= 12
    assert 4 < turn["mug"] <= 5
