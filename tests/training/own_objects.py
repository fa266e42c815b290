"""What a user may have beside the toolkit: a network, and the parts of a run that a config can name by their path."""

import keras
import numpy as np
import tensorflow as tf

import keras_robust as kr

register = keras.saving.register_keras_serializable("own_objects")


@register
class MyNet(keras.Model):
    """A small network."""

    def __init__(self, width=4, classes=10, **kwargs):
        super().__init__(**kwargs)
        self.width, self.classes = width, classes
        self.convolution = keras.layers.Conv2D(width, 3, 2, activation="relu")
        self.pooling = keras.layers.GlobalAveragePooling2D()
        self.logits = keras.layers.Dense(classes)

    def call(self, images):
        return self.logits(self.pooling(self.convolution(images)))

    def get_config(self):
        return super().get_config() | {"width": self.width, "classes": self.classes}


class NotRegistered(MyNet):
    """Keras cannot load it."""


@register
class MyMethod(kr.AdversarialTraining):
    """Is a method."""


@register
class MyAttack(kr.attacks.PGD):
    """Is an attack."""


@register
class MyOptimizer(keras.optimizers.SGD):
    """Is an optimizer."""


def halves(total_steps, peak=0.1):
    """Is made with the length of the run."""
    return keras.optimizers.schedules.PiecewiseConstantDecay([total_steps // 2], [peak, peak / 2])


def my_net_for_plans(width=4):
    """Is built."""
    network = MyNet(width)
    network(keras.Input((8, 8, 1)))
    return network


def squares(split, dtype="uint8"):
    """Bright squares of as many sizes as classes; a split is a number of examples."""
    count = int(split)
    labels = np.arange(count) % 10
    images = np.zeros((count, 8, 8, 1), dtype)
    for image, label in zip(images, labels, strict=True):
        image[: label % 8 + 1] = 200 if dtype == "uint8" else 0.8
    return tf.data.Dataset.from_tensor_slices((images, labels.astype("int32")))


def no_length(split):
    """Does not say how many there are."""
    return squares(split).filter(lambda image, label: label >= 0)


def batched(split):
    """Has batches."""
    return squares(split).batch(4)


def doubled(split):
    """Has images of the wrong dtype."""
    return squares(split).map(lambda image, label: (tf.cast(image, tf.float64), label))


def nothing(*args, **kwargs):
    """Makes nothing."""


a_number = 3
a_network = MyNet()
