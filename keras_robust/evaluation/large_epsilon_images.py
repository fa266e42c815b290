"""Images attacked with a large epsilon, to look at. For a robust classifier, they look like the predicted class.

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
    """Attacks the first examples with all steps of an attack (Shafahi et al., 2019, figure 2).

    PGD and BIM continue after an example is misclassified; other attacks may stop. The paper uses BIM with 50 steps of
    2/255 at epsilon 30/255, on classifiers that were trained for 8/255. If the attack does not choose among its
    restarts itself, the first restart is used.

    Args:
        model: see `evaluate`.
        dataset: see `evaluate`.
        attack: an attack with an epsilon several times as large as the epsilon of training.
        examples: number of examples, from the start of the data set.
        batch_size: number of examples at a time, a multiple of the number of replicas.
        seed: seed of the random draws of the attack, in [0, 2**31).
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values, and a dictionary of arrays. The values are `kind` ("large_epsilon_images"),
        `attack` (its name), `epsilon`, `arrays` (a prefix that depends on the attack) and `seconds`. The names of the
        arrays are this prefix, a slash, and "images" or "attacked", (n, ...) float32, or "labels" or
        "attacked_predictions", (n,) int32.

    Raises:
        ValueError: if an argument is not as described.
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
