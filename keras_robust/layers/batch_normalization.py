"""Batch normalisation on TensorFlow's fused kernel."""

import keras
import tensorflow as tf

from keras_robust.core.keras_private import traced_for_xla
from keras_robust.core.seeds import Tensor
from keras_robust.core.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` whose training pass is one fused kernel, forward and backward.

    Keras computes batch normalisation on TensorFlow as a chain of elementwise operations, each of which reads and
    writes all activations. The arguments are those of `keras.layers.BatchNormalization`. Weights, moving averages and
    saved config are the same, so weights can be exchanged: `replace_normalization(classifier, "batch")`. Outputs and
    averages equal Keras's to float32 rounding: like Keras, the moving variance averages biased variances, while the
    kernel returns unbiased ones.

    The layer computes as Keras's does where the kernel cannot be used: at inference, with `synchronized=True`,
    `renorm=True` or a mask, in float64 or with 16-bit weights, and along another axis than the last. The same holds
    under XLA, which fuses Keras's operations anyway. From the kernel's operation XLA would make E[x^2] - E[x]^2, a
    variance that is wrong, or even negative, where the mean is far from 0.
    """

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None) -> Tensor:
        """Returns `inputs` normalised, of the same shape and of the layer's compute dtype."""
        if not (training and self.trainable and mask is None and self._has_kernel(inputs)):
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        images = inputs if inputs.shape.rank == 4 else tf.reshape(inputs, (-1, 1, 1, channels))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=images,
            scale=tf.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            offset=tf.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            mean=[],
            variance=[],
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(images) // channels, tf.float32)
        variance *= tf.maximum(count - 1.0, 1.0) / count
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + value * (1.0 - self.momentum))
        return outputs if inputs.shape.rank == 4 else tf.reshape(outputs, tf.shape(inputs))

    def _has_kernel(self, inputs: Tensor) -> bool:
        rank = inputs.shape.rank
        return (
            rank is not None
            and self.axis in (-1, rank - 1)
            and inputs.dtype in (tf.float32, tf.bfloat16, tf.float16)
            and self.variable_dtype == "float32"
            and not self.synchronized
            and not getattr(self, "renorm", False)  # unknown to Keras 3.12
            and not traced_for_xla()
        )
