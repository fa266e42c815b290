"""Makes `digits.npz`, the embedded sample of MNIST, from the four official files.

    python -m keras_robust.data.mnist_small.make_digits --official_files=FOLDER

FOLDER holds train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and
t10k-labels-idx1-ubyte.gz. For each split the file has `{split}_images` (n, 28, 28) uint8, `{split}_labels` (n,) uint8
and `{split}_indices` (n,) int32, the positions in the official file, ascending.
"""

import gzip
import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from absl import app, flags

SEED = 20180316  # the day Kannan et al. (2018) appeared
EXAMPLES = {"train": 10_000, "test": 2_000}
OFFICIAL_PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: pathlib.Path) -> npt.NDArray[np.uint8]:
    """Reads a gzipped idx file of unsigned bytes.

    Raises:
        ValueError: if the file is not in that format.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":  # two zero bytes, then the code of uint8
        raise ValueError(f"Expected an idx file of unsigned bytes. Received: path={path}")
    rank = content[3]
    shape = tuple(int(size) for size in np.frombuffer(content, ">i4", count=rank, offset=4))
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def proportional_counts(frequencies: Sequence[int], total: int) -> list[int]:
    """Divides `total` in proportion to `frequencies` by the method of largest remainders; the sum is exact."""
    population = sum(frequencies)
    counts = [frequency * total // population for frequency in frequencies]
    remainders = [frequency * total % population for frequency in frequencies]
    by_remainder = sorted(range(len(counts)), key=lambda label: (-remainders[label], label))
    for label in by_remainder[: total - sum(counts)]:
        counts[label] += 1
    return counts


def stratified_indices(labels: npt.NDArray[np.uint8], total: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Draws `total` positions without replacement, each class in proportion to its frequency.

    Args:
        labels: (n,) integers from 0.
        total: how many positions to draw, at most n.
        rng: source of randomness.

    Returns:
        (total,) int32 positions, ascending.

    Raises:
        ValueError: if there are fewer than `total` labels.
    """
    if not 0 <= total <= len(labels):
        raise ValueError(f"Expected total between 0 and the {len(labels)} labels. Received: total={total}")
    counts = proportional_counts(np.bincount(labels).tolist(), total)
    draws = [rng.choice(np.flatnonzero(labels == label), size, replace=False) for label, size in enumerate(counts)]
    return np.sort(np.concatenate(draws)).astype(np.int32)


def sample(official_files: pathlib.Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of `digits.npz`, drawn from the official files in the folder `official_files`."""
    rng = np.random.default_rng(SEED)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for split, total in EXAMPLES.items():
        prefix = OFFICIAL_PREFIX[split]
        images = read_idx(official_files / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(official_files / f"{prefix}-labels-idx1-ubyte.gz")
        indices = stratified_indices(labels, total, rng)
        arrays |= {
            f"{split}_images": images[indices],
            f"{split}_labels": labels[indices],
            f"{split}_indices": indices,
        }
    return arrays


def main(argv: Sequence[str]) -> None:
    """Writes the file that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only. Received: {argv[1:]}")
    # mypy takes the unpacked arrays for `allow_pickle`, the only named parameter.
    np.savez_compressed(flags.FLAGS.output, **sample(pathlib.Path(flags.FLAGS.official_files)))  # type: ignore[arg-type]


if __name__ == "__main__":  # a module that is only imported must not define flags
    flags.DEFINE_string("official_files", None, "Folder of the four official MNIST files.")
    flags.DEFINE_string("output", str(pathlib.Path(__file__).parent / "digits.npz"), "File to write.")
    flags.mark_flag_as_required("official_files")
    app.run(main)
