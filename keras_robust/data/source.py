"""Splits with encoded images: skipped images are never decoded, and crops are decoded in part."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import import_named, is_dotted_path, path_of
from keras_robust.data.decoding import cut, decode, decode_any, read_named
from keras_robust.data.image_folder import PREFIX, check_on_bad_image, open_folder
from keras_robust.data.windows import central_window

DataFunction = Callable[[str], tf.data.Dataset]
"""From a split, a text of which it alone knows the meaning, to the examples: see `FunctionSource`."""
ImageSize = int | Sequence[int]
"""(height, width) of images, as in Keras, or one number for both. 0 leaves images as they are."""


def height_and_width(image_size: ImageSize) -> tuple[int, int] | None:
    """Returns height and width, or None for 0.

    Raises:
        ValueError: if it is not a number of at least 0, or two numbers of at least 1.
    """
    numbers = [image_size] * 2 if isinstance(image_size, int) else image_size
    valid = isinstance(numbers, list | tuple) and len(numbers) == 2
    if not valid or any(type(side) is not int or side < int(image_size != 0) for side in numbers):
        raise ValueError(
            "image_size must be at least 0, or a pair (height, width) of at least 1 each. Received: "
            f"image_size={image_size!r}"
        )
    return (numbers[0], numbers[1]) if image_size else None


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about a split that are known without reading it.

    Attributes:
        name: name of the data set, as given.
        split: split in TFDS syntax, as given.
        num_examples: number of examples in the split, at least 1.
        num_classes: number of classes. None if your own function returns labels that are numbers.
        image_shape: (height, width, channels). Height and width are None if images differ in size.
    """

    name: str
    split: str
    num_examples: int
    num_classes: int | None
    image_shape: tuple[int | None, int | None, int]

    def shape_at(self, image_size: ImageSize) -> tuple[int, int, int]:
        """Returns the shape of the images in batches.

        Args:
            image_size: (height, width), or one number for both. 0 leaves images of one size as they are.

        Raises:
            ValueError: if it is not a size, or 0 although images differ in size.
        """
        size = height_and_width(image_size)
        height, width, channels = self.image_shape
        if size is not None:
            return (*size, channels)
        if height is None or width is None:
            raise ValueError(
                f"Give an image size, such as 224, for images that differ in size. Received: image_size=0 for "
                f"name={self.name!r} with images of shape {self.image_shape}"
            )
        return height, width, channels


NAMESPACES = ("folder", "huggingface", "kaggle")
"""Of data sets: their names, such as "huggingface:mnist", look like the path of a function."""
Records = Callable[[Tensor | None], tf.data.Dataset]
"""See `Source.records`."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A split whose images are not decoded yet.

    Attributes:
        info: facts about the split.
        records: maps None to pairs of record and label, () int64, in the order of the files. Maps a seed, () int64, to
            the same pairs with the files in an order drawn from it. A record is a string: an encoded image, or the name
            of an image file.
        are_names: whether records are names of files.
        decode_other: decoder of encoded images that are not JPEGs, to (height, width, channels) uint8.
    """

    info: DatasetInfo
    records: Records
    are_names: bool
    decode_other: Callable[[Tensor], Tensor]

    def decode(self, record: Tensor) -> Tensor:
        """Returns the image of a record: (height, width, channels) uint8 in [0, 255]."""
        return self._read(record, lambda contents: decode(contents, self.decode_other, self.info.image_shape))

    def image(self, record: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Returns the image of a record as in evaluation: its `central_window`, resized to `shape`, uint8."""
        if self.info.image_shape == shape:
            return self.decode(record)
        return self.window(record, functools.partial(central_window, size=shape[:2]), shape)

    def window(self, record: Tensor, window_of: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> Tensor:
        """Returns a window of the image of a record, resized to `shape`, uint8: see `decoding.cut`."""
        return self._read(record, lambda contents: cut(contents, self.decode_other, window_of, shape))

    def _read(self, record: Tensor, decoder: Callable[[Tensor], Tensor]) -> Tensor:
        return read_named(record, decoder) if self.are_names else decoder(record)


class FunctionSource(Source):
    """The examples that a user's own function returns.

    It returns a finite `tf.data.Dataset` of pairs, one example each and in the same order at each call: an image,
    (height, width, channels) uint8 in [0, 255] or float32 in [0, 1], and a label, () integer or (classes,) one-hot.
    """

    def decode(self, record: Tensor) -> Tensor:
        """Returns the image, which is not encoded."""
        return record

    def window(self, record: Tensor, window_of: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> Tensor:
        """Returns a window of the image, resized to `shape`."""
        top, left, height, width = tf.unstack(window_of(tf.shape(record)[:2]))
        resized = tf.image.resize(record[top : top + height, left : left + width], shape[:2], antialias=True)
        return tf.ensure_shape(tf.cast(tf.round(resized), tf.uint8) if record.dtype == tf.uint8 else resized, shape)


def open_split(
    name: str | DataFunction,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    download: bool,
    order: str = "tfds",
    on_bad_image: str = "error",
) -> Source:
    """Finds a split.

    Args:
        name: see `loading.load_split`.
        split: see `loading.load_split`.
        data_dir: see `loading.load_split`.
        download: see `loading.load_split`.
        order: see `loading.load_split`. In the official order, no order of files is drawn.
        on_bad_image: see `loading.load_split`.

    Raises:
        ValueError: see `loading.load_split`.
    """
    if is_dotted_path(name) and str(name).partition(":")[0] not in NAMESPACES:
        name = import_named("dataset", str(name))
    if callable(name):
        return _open_function(name, split, order, on_bad_image)
    from keras_robust.data import builders, official_order  # they load TFDS, which takes its time

    official_order.check_order(order)
    check_on_bad_image(on_bad_image)
    if isinstance(name, str) and name.startswith(PREFIX):
        if order == "official":
            raise ValueError(official_order.order_is_not_known(name))
        return _open_folder(name, split, on_bad_image)
    if on_bad_image != "error":
        raise ValueError(
            "on_bad_image='skip' works for folders, not for TFDS data sets. "
            f"Received: on_bad_image={on_bad_image!r} for name={name!r}"
        )
    builder = builders.prepared_builder(name, data_dir, download)
    image, label = builders.image_and_label(name, builder)
    records: Records = functools.partial(builders.encoded_images, builder, split)
    sizes = {key: int(info.num_examples) for key, info in builder.info.splits.items()}
    try:
        num_examples = int(records(None).cardinality())
    except AssertionError:
        raise ValueError(builders.how_to_prepare(name, builder)) from None
    except (KeyError, ValueError) as error:
        raise ValueError(builders.available_splits(name, sizes, split, str(error))) from None
    if num_examples < 1:  # a slice that ends before it starts has a negative cardinality
        raise ValueError(builders.available_splits(name, sizes, split, "the slice is empty"))
    if order == "official":
        records = _fixed(official_order.official_records(builder, name, split))
    info = DatasetInfo(name, split, num_examples, label.num_classes, tuple(image.shape))
    return Source(info, records, False, image.decode_example)


def _open_function(function: DataFunction, split: str, order: str, on_bad_image: str) -> Source:
    name = path_of(function)
    if order != "tfds" or on_bad_image != "error":
        raise ValueError(
            "A function as data set decides itself on the order of its examples and on bad images. Leave out order and "
            f"on_bad_image. Received: order={order!r}, on_bad_image={on_bad_image!r} for name={name!r}"
        )
    examples = function(split)
    spec = _check_examples(examples, name, split)
    count = int(examples.cardinality())
    if count < 1:
        raise ValueError(
            "A data set must know how many examples it has, at least one. End the function with "
            ".apply(tf.data.experimental.assert_cardinality(COUNT)), and do not repeat the examples. Received: "
            f"{name}({split!r}), of cardinality {_CARDINALITIES.get(count, count)}"
        )
    one_hot = spec[1].shape.rank == 1
    records = examples.map(
        lambda image, label: (image, tf.argmax(label) if one_hot else tf.cast(label, tf.int64)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    info = DatasetInfo(name, split, count, spec[1].shape[0] if one_hot else None, tuple(spec[0].shape))
    return FunctionSource(info, _fixed(records), False, decode_any)


_CARDINALITIES = {tf.data.UNKNOWN_CARDINALITY: "unknown", tf.data.INFINITE_CARDINALITY: "infinite"}


def _check_examples(examples: object, name: str, split: str) -> tuple[tf.TensorSpec, tf.TensorSpec]:
    """Returns the specs of image and label."""
    if not isinstance(examples, tf.data.Dataset):
        raise ValueError(
            "The function of a data set must return a tf.data.Dataset of (image, label). Received: "
            f"{name}({split!r}), which returns {type(examples).__name__}"
        )
    spec = examples.element_spec
    is_pair = isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(part, tf.TensorSpec) for part in spec)
    if not is_pair or spec[0].shape.rank != 3 or spec[1].shape.rank not in (0, 1):
        is_batched = is_pair and spec[0].shape.rank == 4
        hint = " Leave out .batch(): the toolkit shuffles and batches." if is_batched else ""
        raise ValueError(
            "The function of a data set must return single examples: pairs of an image, (height, width, channels), and "
            f"a label, () or one-hot (classes,).{hint} Received: {name}({split!r}) with elements {spec}"
        )
    if spec[0].dtype not in (tf.uint8, tf.float32) or spec[0].shape[2] is None:
        raise ValueError(
            "Images must be uint8 in [0, 255] or float32 in [0, 1], with a known number of channels. Convert them with "
            f"tf.cast and tf.ensure_shape. Received: {name}({split!r}) with images {spec[0]}"
        )
    if spec[1].shape.rank == 0 and not spec[1].dtype.is_integer:
        raise ValueError(f"Labels must be integers or one-hot. Received: {name}({split!r}) with labels {spec[1]}")
    return spec


def _open_folder(name: str, split: str, on_bad_image: str) -> Source:
    from keras_robust.data import builders

    folder = open_folder(name)
    sizes = {key: len(examples) for key, examples in folder.splits.items()}
    try:
        examples = folder.examples(split)
    except (KeyError, ValueError, AssertionError) as error:
        raise ValueError(builders.available_splits(name, sizes, split, str(error))) from None
    if not examples:
        raise ValueError(builders.available_splits(name, sizes, split, "the slice is empty"))
    if on_bad_image == "skip":
        examples = folder.readable(examples, split)
    number = {label: index for index, label in enumerate(folder.classes)}
    paths, labels = zip(*((path, number[label]) for path, label in examples), strict=True)
    names = tf.data.Dataset.from_tensor_slices((tf.constant(paths, tf.string), tf.constant(labels, tf.int64)))
    info = DatasetInfo(name, split, len(examples), len(folder.classes), (None, None, 3))
    return Source(info, _fixed(names), True, decode_any)


def _fixed(records: tf.data.Dataset) -> Records:
    """Returns `Source.records` for records without an order of files to draw."""
    return lambda seed: records
