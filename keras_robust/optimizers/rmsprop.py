"""RMSprop as TensorFlow 1 had it, with which the logit pairing paper was trained."""

from typing import Any

import keras

from keras_robust.core.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class TensorFlow1RMSprop(keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` whose mean square starts at one instead of zero.

    With the epsilon of 1.0 of the original code of Kannan et al. (2018), the first updates are up to 1.4 times smaller
    for it. The defaults are that code's: rho 0.9, momentum 0.9, epsilon 1.0.

    Args:
        learning_rate: a number or a schedule.
        rho: decay of the mean square.
        momentum: of the scaled gradient.
        epsilon: inside the square root.
        **kwargs: of `keras.optimizers.RMSprop`, such as `use_ema=True, ema_momentum=0.9999` for the average of the
            weights in that code.
    """

    def __init__(
        self,
        learning_rate: Any = 0.045,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, **kwargs)

    def add_optimizer_variables(self, trainable_variables: Any, name: Any, initializer: Any = "zeros") -> Any:
        """Makes the optimizer's variables; the mean squares are ones."""
        return super().add_optimizer_variables(trainable_variables, name, "ones" if name == "velocity" else initializer)
