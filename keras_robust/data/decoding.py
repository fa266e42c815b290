"""From encoded images to pixels: JPEGs exactly as Pillow decodes them; of a window, nothing outside is decoded."""

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from keras_robust.core.seeds import Tensor

EXACT = "INTEGER_ACCURATE"
"""TensorFlow's faster default is off by 1 of 255 on average, at most 5, in a thousand images of Tiny ImageNet."""
Decode = Callable[[Tensor], Tensor]

UNREADABLE = "cannot be read as an image"


def decode(contents: Tensor, decode_other: Decode, shape: tuple[int | None, int | None, int]) -> Tensor:
    """Decodes an image.

    Args:
        contents: () string, an encoded image.
        decode_other: decoder of encoded images that are not JPEGs, to (height, width, channels) uint8.
        shape: (height, width, channels). Height and width may be None.

    Returns:
        uint8 image of this shape.
    """

    def from_jpeg() -> Tensor:
        return tf.io.decode_jpeg(contents, channels=shape[2], dct_method=EXACT)

    image = tf.cond(tf.io.is_jpeg(contents), from_jpeg, lambda: decode_other(contents))
    return tf.ensure_shape(image, shape)


def cut(contents: Tensor, decode_other: Decode, window_of: Decode, shape: tuple[int, int, int]) -> Tensor:
    """Decodes a window of an image and resizes it. Of a JPEG, nothing outside the window is decoded.

    The resize is bilinear with antialiasing, as in Pillow. A window that already has the size is not changed.

    Args:
        contents: () string, an encoded image.
        decode_other: decoder of encoded images that are not JPEGs, to (height, width, channels) uint8.
        window_of: maps height and width, (2,) int32, to a window (top, left, height, width), (4,) int32.
        shape: (height, width, channels) of the result.

    Returns:
        uint8 image of this shape.
    """

    def from_jpeg() -> Tensor:
        window = window_of(tf.io.extract_jpeg_shape(contents)[:2])
        return tf.io.decode_and_crop_jpeg(contents, window, channels=shape[2], dct_method=EXACT)

    def from_other() -> Tensor:
        image = decode_other(contents)
        top, left, height, width = tf.unstack(window_of(tf.shape(image)[:2]))
        return image[top : top + height, left : left + width]

    part = tf.cond(tf.io.is_jpeg(contents), from_jpeg, from_other)
    resized = tf.image.resize(part, shape[:2], antialias=True)
    return tf.ensure_shape(tf.cast(tf.round(resized), tf.uint8), shape)


def decode_any(contents: Tensor) -> Tensor:
    """Decodes a PNG, BMP, GIF (first frame) or WebP, recognised by its content.

    Args:
        contents: () string, an encoded image.

    Returns:
        (height, width, 3) uint8. Transparency is dropped, and gray is repeated. An animated WebP and a BMP with a
        colour palette are errors.
    """

    def from_webp() -> Tensor:
        # TensorFlow's decoder reads only still images.
        head = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 20, 1), tf.uint8), tf.int32)
        is_animated = tf.equal(tf.strings.substr(contents, 12, 4), b"VP8X") & (head[0] // 2 % 2 == 1)
        with tf.control_dependencies([tf.debugging.Assert(~is_animated, ["an animated WebP"])]):
            # It returns four channels if there is transparency, whatever is requested.
            return tf.io.decode_webp(tf.identity(contents))[0, ..., :3]

    def from_other() -> Tensor:
        is_bmp = tf.equal(tf.strings.substr(contents, 0, 2), b"BM")
        with tf.control_dependencies([tf.cond(is_bmp, lambda: _check_palette(contents), lambda: True)]):
            return tf.io.decode_image(contents, channels=3, expand_animations=False)

    start = tf.strings.substr(contents, 0, 4)
    image = tf.cond(tf.equal(start, b"RIFF"), from_webp, from_other)
    return tf.ensure_shape(image, (None, None, 3))


def _check_palette(contents: Tensor) -> Tensor:
    """Fails for a BMP with a colour palette, whose numbers TensorFlow takes for gray. Otherwise returns True."""
    data = tf.cast(tf.io.decode_raw(tf.strings.substr(contents, 0, 1200), tf.uint8), tf.int32)
    pixels, header = data[10] + 256 * data[11], data[14]
    colors = tf.reshape(data[14 + header : pixels], (-1, 4))[:, :3]
    is_gray = tf.reduce_all(colors == tf.range(tf.shape(colors)[0])[:, tf.newaxis])
    with tf.control_dependencies([tf.debugging.Assert((data[28] != 8) | is_gray, ["a BMP with a palette"])]):
        return tf.constant(True)


def decode_file(path: Tensor) -> Tensor:
    """Returns the image in a file, (height, width, 3) uint8."""
    return decode(tf.io.read_file(path), decode_any, (None, None, 3))


def read_named(path: Tensor, decoder: Decode) -> Tensor:
    """Returns `decoder` of the contents of a file. If the file is truncated or not an image, the error names it.

    In a graph, TensorFlow can catch an error only inside a data set. This takes a quarter of a millisecond, as long as
    decoding a thumbnail, so it is done only for files that do not end like a JPEG or PNG. A file that is damaged before
    its end fails with TensorFlow's message alone.

    Args:
        path: () string, a file.
        decoder: maps an encoded image to an image.
    """
    contents = tf.io.read_file(path)
    length = tf.strings.length(contents)

    def ends_with(end: bytes) -> Tensor:
        return tf.equal(tf.strings.substr(contents, tf.maximum(length - len(end), 0), len(end)), end)

    def fail(contents: Tensor) -> Tensor:
        reason = tf.strings.join(
            [
                *("The file ", path, f" {UNREADABLE}. Received: ", tf.strings.as_string(length), " bytes that are "),
                "truncated, damaged, or no JPEG, PNG, BMP, GIF or WebP. Delete the file, or leave out such files with ",
                "on_bad_image=skip.",
            ]
        )
        with tf.control_dependencies([tf.debugging.Assert(False, [reason])]):
            return tf.zeros([side or 0 for side in image.element_spec.shape], image.element_spec.dtype)

    one = tf.data.Dataset.from_tensors(contents)
    image = one.map(decoder)
    either = image.ignore_errors().concatenate(one.map(fail)).take(1)
    is_whole = ends_with(b"\xff\xd9") | ends_with(b"IEND\xaeB`\x82")
    decoded = tf.cond(is_whole, lambda: decoder(contents), either.get_single_element)
    return tf.ensure_shape(decoded, image.element_spec.shape)


@contextlib.contextmanager
def naming_bad_images() -> Iterator[None]:
    """Turns TensorFlow's error for a file that cannot be read as an image into a `ValueError` of one sentence."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"The file [^\n]* {UNREADABLE}.*?on_bad_image=skip\.", str(error))
        if found is None:
            raise
        # TensorFlow escapes quotes and non-ASCII letters.
        raise ValueError(codecs.escape_decode(found[0].encode())[0].decode(errors="replace")) from None


def what_is_wrong(path: str) -> str:
    """Returns in words why a file cannot be read as an image."""
    contents = tf.io.read_file(path).numpy()
    if not contents:
        return "empty"
    known = (b"\xff\xd8", b"\x89PNG", b"BM", b"GIF8", b"RIFF")
    return "truncated or damaged" if contents.startswith(known) else "not a JPEG, PNG, BMP, GIF or WebP"
