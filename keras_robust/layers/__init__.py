"""Layers: normalisation (mixture, replacing, freezing, branches), reversible blocks, and a fast first convolution."""

from keras_robust.layers.auxiliary_logits import AuxiliaryLogits, auxiliary_layers, collect_auxiliary_logits
from keras_robust.layers.batch_normalization import BatchNormalization
from keras_robust.layers.fast_inference import fast_inference
from keras_robust.layers.image_convolution import ImageConvolution
from keras_robust.layers.mixture_batch_normalization import (
    ADVERSARIAL,
    BRANCHES,
    CLEAN,
    MixtureBatchNormalization,
    branch_in_use,
    has_branches,
    mixture_layers,
    select_branch,
    use_branch,
)
from keras_robust.layers.normalization import (
    PerImageStandardization,
    check_functional,
    make_normalization,
    replace_normalization,
)
from keras_robust.layers.pass_settings import frozen_statistics
from keras_robust.layers.reversible_blocks import ReversibleBlocks, stored_activations

__all__ = [
    "ADVERSARIAL",
    "BRANCHES",
    "CLEAN",
    "AuxiliaryLogits",
    "BatchNormalization",
    "ImageConvolution",
    "MixtureBatchNormalization",
    "PerImageStandardization",
    "ReversibleBlocks",
    "auxiliary_layers",
    "branch_in_use",
    "check_functional",
    "collect_auxiliary_logits",
    "fast_inference",
    "frozen_statistics",
    "has_branches",
    "make_normalization",
    "mixture_layers",
    "replace_normalization",
    "select_branch",
    "stored_activations",
    "use_branch",
]
