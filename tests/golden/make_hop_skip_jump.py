"""Runs Foolbox's HopSkipJump on the classifier of the golden numbers, and writes hop_skip_jump.json.

Command:  python tests/golden/make_hop_skip_jump.py        (foolbox 3.3.4 on TensorFlow 2.21, minutes on a CPU core)
"""

import json

import foolbox
import numpy as np
import small_cnn
import tensorflow as tf

EXAMPLES, ROUNDS, SAMPLES = 40, 20, 100
NORMS = {"l2": ("l2", 2), "linf": ("linf", np.inf)}


class Counting:
    """A classifier that counts the images it sees."""

    def __init__(self, model) -> None:
        self.model, self.images = model, 0

    def __call__(self, images):
        self.images += len(images)
        return self.model(images)


def distances(norm: str) -> dict:
    """Returns the distance of each adversarial image, 0 where an example is wrong unattacked, and the mean queries."""
    images, labels = (array[:EXAMPLES] for array in small_cnn.digits())
    keras_model = small_cnn.keras_model()
    right = keras_model.predict(images, verbose=0).argmax(1) == labels
    counting = Counting(keras_model)
    model = foolbox.TensorFlowModel(counting, bounds=(0, 1))
    constraint, order = NORMS[norm]
    attack = foolbox.attacks.HopSkipJumpAttack(
        steps=ROUNDS, initial_gradient_eval_steps=SAMPLES, constraint=constraint, gamma=1.0
    )
    np.random.seed(0)  # noqa: NPY002 - Foolbox draws from it
    tf.random.set_seed(0)
    x, y = tf.constant(images[right]), tf.constant(labels[right])
    _, adversarial, _ = attack(model, x, y, epsilons=None)
    moved = np.linalg.norm((adversarial.numpy() - images[right]).reshape(right.sum(), -1), ord=order, axis=1)
    result = np.zeros(EXAMPLES)
    result[right] = moved
    queries = round(counting.images / int(right.sum()))
    return {"norm": norm, "examples": EXAMPLES, "queries": queries, "distances": np.round(result, 5).tolist()}


if __name__ == "__main__":
    cases = [distances(norm) for norm in NORMS]
    (small_cnn.FOLDER / "hop_skip_jump.json").write_text(json.dumps({"cases": cases}) + "\n")
    for case in cases:
        print(case["norm"], case["queries"], np.median([d for d in case["distances"] if d]))
