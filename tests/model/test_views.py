"""Five views of any picture, equal to what transformers' own processor cuts with the student's one grid."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from model.tiny_models import MEAN, STD
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from lavic.model.views import PixelNorm, cut_views

SIZES = {
    "portrait": (300, 451),
    "landscape": (500, 333),
    "square": (1000, 1000),
    "300x300": (300, 300),  # with the full list of grids these three get 3 or 4 views
    "500x250": (500, 250),
    "1500x500": (1500, 500),
    "one pixel wide": (1, 700),
    "one pixel high": (333, 1),
    "one pixel": (1, 1),
    "huge": (5003, 2999),
}


def picture(width: int, height: int) -> Image.Image:
    """Noise over gradients: every pixel differs from its neighbours, and a flip or swap would show."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 60, (height, width))
    channels = [x * 190 // width + noise, y * 190 // height + noise, (x + y) % 200 + noise // 2]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def stock_processor(s: int) -> LlavaNextImageProcessorPil:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": s}, crop_size={"height": s, "width": s}, image_grid_pinpoints=[[2 * s, 2 * s]]
    )


@pytest.mark.parametrize("s", [40, 336])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_five_views_equal_transformers_own(size, s):
    image = picture(*size)
    views = cut_views(image, s)
    stock = stock_processor(s)(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    assert views.shape == (5, 3, s, s)
    assert views.dtype == np.uint8
    assert np.array_equal(views, stock)


@pytest.mark.parametrize("s", [40, 336])
def test_normalised_views_equal_transformers_own(s):
    image = picture(500, 333)
    found = PixelNorm(MEAN, STD)(torch.from_numpy(cut_views(image, s)), torch.float32)
    stock = stock_processor(s)(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(found, stock.float(), rtol=0, atol=1e-6)


def test_views_of_many_odd_sizes_equal_transformers_own():
    random = np.random.default_rng(3)
    for width, height in random.integers(1, 130, (150, 2)).tolist():
        image = picture(width, height)
        stock = stock_processor(40)(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert np.array_equal(cut_views(image, 40), stock), (width, height)


@pytest.mark.parametrize("size", [(60, 97), (97, 60), (50, 50), (1, 9), (200, 3)])
def test_views_equal_the_description(size):
    image = picture(*size)
    assert np.array_equal(cut_views(image, 8), oracles.views(image, 8))


def test_tiles_go_row_by_row_on_black():
    # 200 x 100, four colours by quarters: fitted into 40 x 40 as 40 x 20, so black above and below.
    colours = {(0, 0): "red", (100, 0): "lime", (0, 50): "blue", (100, 50): "white"}
    image = Image.new("RGB", (200, 100))
    for corner, colour in colours.items():
        image.paste(colour, (*corner, corner[0] + 100, corner[1] + 50))
    views = cut_views(image, 20)
    middle = [tuple(view[:, 15 if tile < 2 else 4, 10]) for tile, view in enumerate(views[1:])]
    assert middle == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    assert not views[1:3, :, :10].any()  # black above the upper tiles
    assert not views[3:5, :, 10:].any()  # and below the lower ones
    assert tuple(views[0][:, 4, 4]) == (255, 0, 0)  # the whole picture is squashed, without black
    assert tuple(views[0][:, 15, 15]) == (255, 255, 255)


def test_llava_15_gets_one_view_the_whole_picture():
    image = picture(300, 451)
    views = cut_views(image, 40, views=1)
    stock = CLIPImageProcessorPil(
        size={"height": 40, "width": 40}, do_center_crop=False, do_rescale=False, do_normalize=False
    )
    assert views.shape == (1, 3, 40, 40)
    assert np.array_equal(views, np.asarray(stock(image)["pixel_values"]))


def test_another_number_of_views_is_refused():
    with pytest.raises(ValueError, match="1 or 5, not 3"):
        cut_views(picture(10, 10), 8, views=3)
