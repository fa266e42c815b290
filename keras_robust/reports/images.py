"""Pictures for the page: images in the bounds of the threat model become PNGs in data URIs."""

import base64
import dataclasses
import io
import math

import matplotlib.image
import numpy as np

from keras_robust.reports.record import Record, Samples

WHITE = 255
COLOUR_CHANNELS = (1, 3)
DEFAULT_BOUNDS = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class SampleCard:
    """One example: three pictures as data URIs, its label and both predictions."""

    label: int
    clean_prediction: int
    attacked_prediction: int
    clean: str
    perturbation: str
    attacked: str
    amplification: str
    width: int
    height: int
    channels: int


@dataclasses.dataclass(frozen=True)
class PairCard:
    """One example of an analysis: two pictures as data URIs, its label and the prediction under attack."""

    label: int
    attacked_prediction: int
    clean: str
    attacked: str
    width: int
    height: int


def sample_cards(record: Record, samples: Samples) -> list[SampleCard]:
    """Returns one card per sample image."""
    return [_card(samples, position, _bounds(record)) for position in range(len(samples["labels"]))]


def pair_cards(record: Record, samples: Samples, prefix: str) -> list[PairCard]:
    """Returns one card per image of an analysis. The names of its arrays begin with `prefix` and a slash."""
    bounds = _bounds(record)
    arrays = (samples[f"{prefix}/{name}"] for name in ("images", "attacked", "labels", "attacked_predictions"))
    return [
        PairCard(
            label=int(label),
            attacked_prediction=int(prediction),
            clean=png_uri(image_pixels(clean, bounds)),
            attacked=png_uri(image_pixels(attacked, bounds)),
            width=as_picture(clean).shape[1],
            height=as_picture(clean).shape[0],
        )
        for clean, attacked, label, prediction in zip(*arrays, strict=True)
    ]


def as_picture(image: np.ndarray) -> np.ndarray:
    """Returns an image of any shape as (height, width, channels).

    A vector becomes one row of pixels. All axes after the second become channels.
    """
    height, width, *channels = image.shape if image.ndim > 1 else (1, *image.shape)
    return image.reshape(height, width, math.prod(channels))


def image_pixels(image: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Returns an image of any shape as 8-bit RGB, (height, width, 3) uint8.

    An image whose number of channels is neither 1 nor 3 is shown as the mean of its channels.

    Args:
        image: floats in `bounds`, of any shape that `as_picture` takes.
        bounds: the values that become black and white.
    """
    low, high = bounds
    return _rgb(WHITE * (image.astype(np.float64) - low) / (high - low))


def perturbation_pixels(perturbation: np.ndarray) -> np.ndarray:
    """Returns a perturbation as 8-bit RGB: 0 is mid grey, and the largest absolute value is black or white."""
    perturbation = perturbation.astype(np.float64)
    peak = np.abs(perturbation).max()
    scaled = perturbation / peak if peak > 0 else perturbation
    return _rgb(WHITE * (0.5 + 0.5 * scaled))


def amplification(perturbation: np.ndarray, bounds: tuple[float, float]) -> float | None:
    """Returns the factor by which `perturbation_pixels` amplifies a perturbation, or None if all of it is zero."""
    peak = float(np.abs(perturbation).max())
    return 0.5 * (bounds[1] - bounds[0]) / peak if peak > 0 else None


def png_uri(pixels: np.ndarray) -> str:
    """Returns 8-bit RGB pixels as the data URI of a PNG."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, pixels, format="png")
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(content: bytes, media_type: str) -> str:
    """Returns bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def _bounds(record: Record) -> tuple[float, float]:
    low, high = record.get("bounds") or (record.get("threat_model") or {}).get("bounds") or DEFAULT_BOUNDS
    return low, high


def _card(samples: Samples, position: int, bounds: tuple[float, float]) -> SampleCard:
    clean, attacked = samples["images"][position], samples["attacked"][position]
    perturbation = attacked.astype(np.float64) - clean
    factor = amplification(perturbation, bounds)
    height, width, channels = as_picture(clean).shape
    return SampleCard(
        label=int(samples["labels"][position]),
        clean_prediction=int(samples["clean_predictions"][position]),
        attacked_prediction=int(samples["attacked_predictions"][position]),
        clean=png_uri(image_pixels(clean, bounds)),
        perturbation=png_uri(perturbation_pixels(perturbation)),
        attacked=png_uri(image_pixels(attacked, bounds)),
        amplification="no change" if factor is None else f"amplified {factor:.3g} times",
        width=width,
        height=height,
        channels=channels,
    )


def _rgb(values: np.ndarray) -> np.ndarray:
    values = as_picture(values)
    if values.shape[2] not in COLOUR_CHANNELS:
        values = values.mean(axis=2, keepdims=True)
    pixels = np.clip(np.rint(values), 0, WHITE).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
