"""Trains the classifier of the golden numbers and writes small_cnn.npz.

Command:  python tests/golden/make_small_cnn.py
"""

import keras
import numpy as np
import small_cnn
import tensorflow as tf

import keras_robust as kr

BATCH, EPOCHS = 100, 8


def main() -> None:
    """Trains and writes."""
    keras.utils.set_random_seed(0)
    classifier = small_cnn.keras_model()
    model = kr.AdversarialTraining(classifier, kr.attacks.PGD(kr.Linf(0.1), steps=5), clean_fraction=1.0)
    rate = kr.optimizers.one_cycle(100 * EPOCHS, peak=3e-3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    batches = kr.data.training_batches("mnist_small", "train", batch_size=BATCH, seed=0)
    model.fit(batches, epochs=EPOCHS, steps_per_epoch=100, verbose=2, shuffle=False)
    test = kr.data.load_split("mnist_small", f"test[:{small_cnn.IMAGES}]").batch(small_cnn.IMAGES)
    images, labels = next(test.as_numpy_iterator())
    arrays = {f"a{index}": weight for index, weight in enumerate(classifier.get_weights())}
    np.savez_compressed(small_cnn.FOLDER / "small_cnn.npz", images=images, labels=labels.astype(np.uint8), **arrays)
    logits = classifier(tf.constant(images / np.float32(255)))
    print("clean accuracy of the images:", np.mean(np.argmax(logits, axis=1) == labels))


if __name__ == "__main__":
    main()
