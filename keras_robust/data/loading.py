"""Loading of image classification data sets: any of TFDS, folders of images, and the embedded `mnist_small`."""

import os

import tensorflow as tf

from keras_robust.data.source import DataFunction, DatasetInfo, open_split


def load_split(
    name: str | DataFunction,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    order: str = "tfds",
    on_bad_image: str = "error",
) -> tf.data.Dataset:
    """Loads a split in a fixed order, the same in every run.

    Args:
        name: a TFDS image classification data set, such as "mnist" or "imagenet2012"; "mnist_small", which is embedded
            in the package and prepared under `data_dir` on first use; or "folder:PATH", a folder of images
            PATH/SPLIT/CLASS/*.jpg, *.png, *.bmp, *.gif (first frame) or *.webp. It may
            also be your own function of the split, see `source.FunctionSource`, or its path "my_package.data:digits".
        split: TFDS split syntax, such as "train[:95%]" or "test[:1000]".
        data_dir: folder of prepared data sets. None means TFDS's default, usually ~/tensorflow_datasets.
        download: whether to download and prepare a data set that is not under `data_dir`.
        order: "tfds" is the order of TFDS's files. TFDS shuffles each split when it prepares it, so "test[:1000]" is
            not the first 1,000 images of the published files. "official" is the published order, also for slices. It is
            known for the data sets in `official_order.NUMBERED`.
        on_bad_image: for a folder. "error" fails with the name of a file that is truncated or not an image when it is
            read. "skip" first decodes every image once, in each process, leaves such files out, and logs their number
            and names. Slices and order count all files, so that a bad file does not move the others.

    Returns:
        Unbatched, uncached pairs of image: (height, width, channels) uint8 in [0, 255], and label: () int64.

    Raises:
        ValueError: if the data set is unknown, not prepared, or does not consist of uint8 images with one label each;
            if a folder has another layout; if the split is unknown or empty; or if the order is unknown, or not known
            for this data set.
    """
    source = open_split(name, split, data_dir, download, order, on_bad_image)
    options = tf.data.Options()
    options.deterministic = True
    decoded = source.records(None).map(lambda x, y: (source.decode(x), y), num_parallel_calls=tf.data.AUTOTUNE)
    return decoded.with_options(options)


def describe(
    name: str | DataFunction,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    on_bad_image: str = "error",
) -> DatasetInfo:
    """Describes a split. The arguments are those of `load_split`.

    Raises:
        ValueError: see `load_split`.
    """
    return open_split(name, split, data_dir, download, on_bad_image=on_bad_image).info
