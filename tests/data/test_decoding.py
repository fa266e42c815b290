"""What is decoded is what Pillow decodes, and what is cut out is what was asked for."""

import io

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_robust.data.decoding import cut, decode, decode_any

pytestmark = pytest.mark.graph


def encode(pixels: np.ndarray, kind: str = "png", **options: int) -> tf.Tensor:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind, **options)
    return tf.constant(file.getvalue())


def decode_other(contents: tf.Tensor) -> tf.Tensor:
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def ramps(height: int, width: int) -> np.ndarray:
    """Red is the column and green the row of a pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)


def cut_out(contents: tf.Tensor, window: list[int], shape: tuple[int, int, int]) -> np.ndarray:
    return cut(contents, decode_other, lambda size: tf.constant(window), shape).numpy()


def pillow(contents: tf.Tensor) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(contents.numpy())).convert("RGB")


def noise(kind: str, **options: int) -> tf.Tensor:
    """An image of 90 x 120."""
    return encode(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8), kind, **options)


@pytest.mark.parametrize(("kind", "tolerance"), [("png", 0.51), ("jpeg", 2.01)])
@pytest.mark.parametrize("window", [(0, 0, 90, 120), (10, 33, 64, 80), (41, 0, 32, 32), (89, 119, 1, 1), (3, 5, 80, 7)])
def test_gradients_reveal_the_window(window, kind, tolerance):
    """Pixel j of `size` is at left + (j + 1/2) width / size - 1/2 of a ramp, but where the filter leaves the window."""
    options = {"quality": 100, "subsampling": 0} if kind == "jpeg" else {}
    image = cut_out(encode(ramps(90, 120), kind, **options), window, (40, 48, 3)).astype(float)
    for channel, (start, length, size) in enumerate([(window[1], window[3], 48), (window[0], window[2], 40)]):
        places = np.arange(size)[:, np.newaxis] * length / size + (length / size - 1) / 2
        margin = max(1, length / size)
        inside = (places[:, 0] >= margin) & (places[:, 0] <= length - 1 - margin)
        ramp = image[..., 0].T if channel == 0 else image[..., 1]
        np.testing.assert_allclose(ramp[inside] - start, np.broadcast_to(places, ramp.shape)[inside], atol=tolerance)


@pytest.mark.parametrize("options", [{"quality": 75}, {"quality": 100, "subsampling": 0}])
def test_jpegs_are_decoded_exactly(options):
    contents = noise("jpeg", **options)
    expected = np.asarray(pillow(contents))
    np.testing.assert_array_equal(decode(contents, decode_other, (None, None, 3)), expected)
    np.testing.assert_array_equal(cut_out(contents, [0, 0, 90, 120], (90, 120, 3)), expected)


@pytest.mark.parametrize("size", [(24, 30), (200, 150)])
def test_the_whole_image_is_resized_as_by_pillow(size):
    for contents in (noise("png"), noise("jpeg")):
        expected = pillow(contents).resize(size[::-1], PIL.Image.Resampling.BILINEAR)
        resized = cut_out(contents, [0, 0, 90, 120], (*size, 3))
        np.testing.assert_allclose(resized.astype(int), np.asarray(expected).astype(int), atol=1)


@pytest.mark.parametrize("contents", [noise("png"), noise("jpeg", subsampling=0)], ids=["png", "jpeg"])
def test_a_window_of_the_size_asked_for_is_not_changed(contents):
    part = cut_out(contents, [16, 32, 48, 64], (48, 64, 3))
    np.testing.assert_array_equal(part, np.asarray(pillow(contents))[16:64, 32:96])


def test_a_window_of_a_jpeg_with_coarse_colours_differs_at_its_edges_alone():
    """Colours of half the resolution are interpolated with what is decoded: beyond the edges, nothing is."""
    contents = noise("jpeg")
    part = cut_out(contents, [16, 32, 48, 64], (48, 64, 3))
    np.testing.assert_array_equal(part[1:-1, 1:-1], np.asarray(pillow(contents))[17:63, 33:95])


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif"])
def test_gray_images_have_three_channels(kind):
    gray = np.random.default_rng(0).integers(0, 256, (20, 20), np.uint8)
    contents = encode(gray, kind, **({"quality": 100} if kind == "jpeg" else {}))
    image = cut_out(contents, [0, 0, 20, 20], (20, 20, 3))
    np.testing.assert_array_equal(image, np.asarray(pillow(contents)))
    np.testing.assert_allclose(image.astype(int), np.repeat(gray[..., np.newaxis].astype(int), 3, axis=2), atol=1)


def test_transparency_is_dropped():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), np.uint8)
    np.testing.assert_array_equal(decode(encode(pixels), decode_other, (None, None, 3)), pixels[..., :3])


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_the_window_is_chosen_by_height_and_width(kind):
    def window_of(size: tf.Tensor) -> tf.Tensor:
        np.testing.assert_array_equal(size, [21, 34])
        return tf.constant([0, 0, 5, 5])

    assert cut(encode(ramps(21, 34), kind), decode_other, window_of, (5, 5, 3)).shape == (5, 5, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp"])
def test_every_kind_of_file_is_three_colours(kind: str, mode: str):
    """As Pillow has them, where nothing is lost; gray is repeated and transparency dropped."""
    image = PIL.Image.fromarray(ramps(9, 12)).convert(mode)
    if mode == "RGBA" and kind != "gif":
        image.putalpha(PIL.Image.fromarray(np.arange(108, dtype=np.uint8).reshape(9, 12)))
    file = io.BytesIO()
    image.save(file, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    expected = np.asarray(PIL.Image.open(file).convert("RGBA"))[..., :3]
    np.testing.assert_array_equal(decode_any(tf.constant(file.getvalue())), expected)


def animated_gif() -> tf.Tensor:
    """Two frames of 9 x 12, of 80 and 160."""
    first, second = (PIL.Image.fromarray(np.full((9, 12, 3), 80 * number, np.uint8)) for number in (1, 2))
    file = io.BytesIO()
    first.save(file, "gif", save_all=True, append_images=[second])
    return tf.constant(file.getvalue())


def test_of_an_animated_gif_the_first_frame_is_read():
    np.testing.assert_array_equal(decode_any(animated_gif()), np.full((9, 12, 3), 80))


def test_an_animated_webp_is_refused_by_its_header():
    """The header alone, without any frame."""
    header = tf.constant(b"RIFF\x16\x00\x00\x00WEBPVP8X\n\x00\x00\x00\x02\x00\x00\x00\x0b\x00\x00\x08\x00\x00")
    for decoder in (decode_any, tf.function(decode_any)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="an animated WebP"):
            decoder(header)


def test_a_palette_of_colours_in_a_bmp_is_refused():
    """TensorFlow would read the numbers of the colours as gray."""
    file = io.BytesIO()
    PIL.Image.fromarray(ramps(9, 12)).convert("P").save(file, "bmp")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a BMP with a palette"):
        decode_any(tf.constant(file.getvalue()))
