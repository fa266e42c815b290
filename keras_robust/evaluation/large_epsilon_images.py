"""Images attacked with a large epsilon, for the eye: of a robust classifier they look like the class it sees.

facts, arrays = kr.evaluation.large_epsilon_images(model, test, BIM(Linf(30 / 255), steps=50, step_size=2 / 255))
"""

import time
from typing import Any

import numpy as np

from keras_robust.attacks import Attack
from keras_robust.core.checks import check_integer
from keras_robust.evaluation.attack_run import check_attack, check_fits, check_gradients, craft
from keras_robust.evaluation.inputs import classify, make_logits_function, prepare_evaluation

PREFIX = "large_epsilon"


def large_epsilon_images(
    model: Any,
    dataset: Any,
    attack: Attack,
    *,
    examples: int = 8,
    batch_size: int = 128,
    seed: int = 0,
    compile_attack: bool | str = "auto",
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Attacks the first examples to the end (Shafahi et al., 2019, figure 2).

    The attack goes on after an example is misclassified, as far as it does so by itself. PGD does, and so does BIM,
    with which the paper makes 50 steps of 2/255 at epsilon 30/255, of classifiers trained for 8/255. Of restarts that
    the attack does not choose among itself the first is shown.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: of an epsilon several times that which the classifier was trained for.
        examples: how many of the first examples are shown.
        batch_size: examples at a time, a multiple of the number of replicas.
        seed: of the attack's draws, in [0, 2**31).
        compile_attack: see `evaluate`.

    Returns:
        Plain Python values, and arrays. The values: `kind` ("large_epsilon_images"), `attack` (its name), `epsilon`,
        `arrays` (what the names of the arrays begin with, of each attack another) and `seconds`. The arrays, after that
        beginning and a slash: "images" and "attacked", (n, ...) float32; "labels" and
        "attacked_predictions", (n,) int32.

    Raises:
        ValueError: if an argument is not what it must be; the message names what was received.
    """
    begin = time.perf_counter()
    check_attack(attack)
    check_integer("examples", examples)
    bounds = attack.threat_model.bounds
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "compile_attack": compile_attack}
    setup = prepare_evaluation(model, dataset, bounds, **options, verbose=False).first(examples)
    check_fits([attack], setup)
    check_gradients({attack.name: attack}, setup)
    attacked = next(craft(attack, setup))
    logits = make_logits_function(setup.target, setup.batch_size, setup.strategy, compile_attack)(attacked)
    arrays = {
        "images": setup.images,
        "attacked": attacked,
        "labels": setup.sparse_labels,
        "attacked_predictions": classify(logits).numpy(),
    }
    prefix = f"{PREFIX}/{attack.name}"
    facts = {
        "kind": "large_epsilon_images",
        "attack": attack.name,
        "epsilon": float(attack.threat_model.epsilon),
        "arrays": prefix,
        "seconds": time.perf_counter() - begin,
    }
    return facts, {f"{prefix}/{name}": values for name, values in arrays.items()}
