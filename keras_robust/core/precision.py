"""The dtype of what must not be rounded: images, logits, losses."""

from typing import Any

import keras


def full_precision(dtype: Any = None) -> str:
    """Returns "float64" for that dtype and "float32" for any other; None is `keras.config.floatx()`."""
    dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
    return "float64" if dtype == "float64" else "float32"
