"""The stream of a training run: numbered examples, epoch after epoch, and the random draws for each of them."""

import dataclasses

import tensorflow as tf

from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.data.augmentation import Augmentation
from keras_robust.data.source import Source


@dataclasses.dataclass(frozen=True)
class Stream:
    """A pure function from the number of an example in the stream to the example.

    Attributes:
        source: source of the images.
        shape: (height, width, channels) of the images in batches.
        draws: the augmentation.
        batch_size: number of examples in a batch.
        seed: seed of all draws and orders.
    """

    source: Source
    shape: tuple[int, int, int]
    draws: Augmentation
    batch_size: int
    seed: int

    def epochs(self, start_step: int, buffer: int, images: tf.data.Dataset | None) -> tf.data.Dataset:
        """Returns pairs of a number, () int64, and an example, shuffled anew in each epoch, from `start_step` on.

        Skipping happens inside an epoch, so that several workers may prepare the epochs.

        Args:
            start_step: number of batches to skip.
            buffer: number of examples to shuffle among.
            images: pairs of image and label if they are kept in memory. None reads records.
        """
        num_examples = self.source.info.num_examples
        in_order = self.source.records(None) if images is None else images
        per_epoch = num_examples // self.batch_size * self.batch_size
        first_epoch, passed = divmod(start_step * self.batch_size, per_epoch)

        @tf.autograph.experimental.do_not_convert  # otherwise TFDS's code would be converted, too
        def epoch_examples(epoch: Tensor) -> tf.data.Dataset:
            # tf.data mixes the global seed into a shuffle. This fixes it, for this function's graph only.
            tf.random.set_seed(1)
            order = _epoch_seed(self.seed, epoch)
            examples = self.source.records(order) if images is None and buffer < num_examples else in_order
            shuffled = examples.shuffle(buffer, seed=order, reshuffle_each_iteration=False)
            to_skip = tf.where(epoch == first_epoch, tf.constant(passed, tf.int64), 0)
            return shuffled.take(per_epoch).skip(to_skip).enumerate(epoch * per_epoch + to_skip)

        return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_examples)

    def read(self, number: Tensor, example: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns a numbered pair of record and label with the record replaced by its image."""
        record, label = example
        window = self.draws.window
        if window is None:
            return number, (self.source.image(record, self.shape), label)
        seed = self._seed_of(seeds.WINDOW, number // self.batch_size, number % self.batch_size)
        aspect = self.shape[1] / self.shape[0]
        return number, (self.source.window(record, lambda size: window(size, seed, aspect=aspect), self.shape), label)

    def change(self, numbers: Tensor, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Returns a batch without its numbers, with the augmentation applied."""
        images, labels = batch
        if self.draws.change is None:
            return images, labels
        return self.draws.change(images, self._seed_of(seeds.AUGMENTATION, numbers[0] // self.batch_size)), labels

    def _seed_of(self, *numbers: int | Tensor) -> Tensor:
        return seeds.fold(seeds.as_seed(self.seed), *numbers)


def _epoch_seed(seed: int, epoch: Tensor) -> Tensor:
    """Returns a seed for `shuffle`, () int64, that depends only on `seed` and `epoch`, () int64."""
    pair = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.stateless_uniform([], pair, minval=None, maxval=None, dtype=tf.int64, alg="philox")
