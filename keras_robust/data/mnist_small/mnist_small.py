"""The TFDS builder of the embedded digits; `digits.npz` beside it was made by `make_digits.py`."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_datasets as tfds

DIGITS_FILE = pathlib.Path(__file__).parent / "digits.npz"

_DESCRIPTION = """\
A stratified sample of MNIST, for tests and demonstrations without a download: 10,000 of the 60,000 training digits and
2,000 of the 10,000 test digits, each class in the proportion of its official split.
"""

_CITATION = """\
@article{lecun2010mnist,
  title={MNIST handwritten digit database},
  author={LeCun, Yann and Cortes, Corinna and Burges, CJ},
  journal={ATT Labs [Online]. Available: http://yann.lecun.com/exdb/mnist},
  volume={2},
  year={2010}
}
"""


def official_places(split: str) -> npt.NDArray[np.int32]:
    """Returns the positions in the official file of the digits of a split, ascending: (examples,) int32."""
    with np.load(DIGITS_FILE) as digits:
        return digits[f"{split}_indices"]


class MnistSmall(tfds.core.GeneratorBasedBuilder):
    """The TFDS data set `mnist_small`; its features are those of TFDS's `mnist`.

    `image`: (28, 28, 1) uint8 in [0, 255]; `label`: () int64 in [0, 9]. Splits: `train`, 10,000 examples, and `test`,
    2,000 examples. Preparing it reads the package's own file and downloads nothing. An example's key is its position
    in the official file. As for `mnist`, TFDS writes each split in a fixed random order.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "10,000 training and 2,000 test digits."}  # noqa: RUF012 (TFDS reads a plain dict)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="http://yann.lecun.com/exdb/mnist/",
            citation=_CITATION,
            license="CC BY-SA 3.0",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # nothing is downloaded
        return {"train": self._generate_examples("train"), "test": self._generate_examples("test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with np.load(DIGITS_FILE) as digits:
            indices, images, labels = (digits[f"{split}_{part}"] for part in ("indices", "images", "labels"))
        for index, image, label in zip(indices, images, labels, strict=True):
            yield int(index), {"image": image[..., np.newaxis], "label": int(label)}
