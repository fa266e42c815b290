"""Attacks every classifier with the examples of every other one, to find classifiers that hide their gradients.

matrix = kr.evaluation.transfer_matrix({"weak": weak, "strong": strong}, test, PGD(Linf(0.3), steps=7))
for verdict in matrix["verdicts"]:
    print(verdict["target"], verdict["reason"])
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_robust.attacks import Attack
from keras_robust.attacks.attack import BatchFunction, by_batch
from keras_robust.core import seeds
from keras_robust.core.seeds import Tensor
from keras_robust.evaluation.attack_run import (
    check_attacks,
    check_fits,
    check_gradients,
    check_restarts,
    check_takes_no_targets,
    craft,
)
from keras_robust.evaluation.inputs import EvaluationSetup, prepare_evaluation, rank_labels
from keras_robust.evaluation.masking import is_stronger
from keras_robust.reports.formatting import percent


def transfer_matrix(
    models: Mapping[str, Any],
    dataset: Any,
    attacks: Attack | Sequence[Attack],
    *,
    batch_size: int = 128,
    seed: int = 0,
    verbose: bool = True,
    compile_attack: bool | str = "auto",
) -> dict[str, Any]:
    """Measures each classifier's accuracy under attacks crafted on each classifier (Bhat et al., 2018, table 1).

    On the diagonal of the matrix, source and target are the same (white box). Elsewhere they differ (black box). An
    attacker with gradients should be at least as strong as one without. If a transferred attack is stronger than the
    same attack in the white box, by more than chance, then the gradients of the target mislead the attack ("gradient
    shattering").

    The examples of a source are attacked once, with all steps, and all targets judge the same images. If an attack has
    restarts, an example is robust if it withstands each of them. If any classifier is random at inference, there is one
    judgement per example, and attacks choose among their restarts themselves.

    Args:
        models: at least two classifiers by name, each in a form that `evaluate` takes. They must have the same classes.
        dataset: see `evaluate`.
        attacks: an attack, or a list of attacks with the same bounds.
        batch_size: number of examples attacked at a time, a multiple of the number of replicas.
        seed: seed of the random draws of the attacks, in [0, 2**31).
        verbose: print which attack is running.
        compile_attack: see `evaluate`.

    Returns:
        A dictionary of plain Python values:

        - `kind`: "transfer_matrix".
        - `sources`, `targets` and `attacks`: names.
        - `accuracy`: a fraction for each attack, source and target, nested in this order.
        - `robust`: nested in the same way, with a number per example: 1 if the target is right on the clean and on the
          attacked image, else 0.
        - `white_box`: for each source and target, whether they are the same.
        - `verdicts`: for each attack and target, a comparison of the white box with the other source whose examples are
          the strongest: `target`, `attack`, `source`, `white_box` and `transferred` (accuracies), `shattered`, and
          `reason` (a sentence).
        - `seconds`: duration in seconds.

    Raises:
        ValueError: if an argument is not as described.
    """
    begin = time.perf_counter()
    given = check_attacks(attacks)
    for attack in given.values():
        check_takes_no_targets(attack)
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
    setups = _prepare_each(models, dataset, given, **options, compile_attack=compile_attack)
    names, judges = list(setups), [_Judge(setup) for setup in setups.values()]
    is_random = [setup.is_random for setup in setups.values()]
    robust = np.ones((len(given), len(names), len(names), len(judges[0].right)), bool)
    for attack, of_attack in zip(given.values(), robust, strict=True):
        for source, of_source in zip(setups, of_attack, strict=True):
            if verbose:
                print(f"{attack.name}, crafted on {source}", flush=True)
            for attacked in craft(attack, setups[source], whole=any(is_random)):
                of_source &= np.stack([judge.is_right(attacked) for judge in judges])
    robust &= np.stack([judge.right for judge in judges])
    return {
        "kind": "transfer_matrix",
        "sources": names,
        "targets": names,
        "attacks": list(given),
        "accuracy": robust.mean(axis=-1).tolist(),
        "robust": robust.astype(int).tolist(),
        "white_box": np.eye(len(names), dtype=bool).tolist(),
        "verdicts": [
            _verdict(attack, names, target, of_attack[:, target], setups[names[target]].note_of_randomness)
            for attack, of_attack in zip(given, robust, strict=True)
            for target in range(len(names))
        ],
        "seconds": time.perf_counter() - begin,
    }


def _prepare_each(models: Any, dataset: Any, attacks: dict[str, Attack], **options: Any) -> dict[str, EvaluationSetup]:
    """Returns the white-box setup of each model. All use the same arrays, because a data set may be reshuffled."""
    if not isinstance(models, Mapping) or len(models) < 2 or not all(isinstance(name, str) for name in models):
        raise ValueError(
            f"models must be a dictionary of at least two classifiers by name. Received: models={models!r}"
        )
    bounds = next(iter(attacks.values())).threat_model.bounds
    setups: dict[str, EvaluationSetup] = {}
    for name, model in models.items():
        setups[name] = prepare_evaluation(model, dataset, bounds, **options)
        dataset = (setups[name].images, setups[name].labels)
    classes = {name: setup.classes for name, setup in setups.items()}
    if len(set(classes.values())) > 1:
        raise ValueError(f"All models must have the same number of classes. Received: numbers of classes {classes}")
    for setup in setups.values():
        check_fits(attacks.values(), setup)
        for attack in attacks.values():
            check_restarts(attack, setup)
        check_gradients(attacks, setup)
    return setups


class _Judge:
    """Says which examples a classifier gets right.

    Attributes:
        right: (examples,) bool: whether the clean image is classified correctly. All True if the classifier is random.
    """

    def __init__(self, setup: EvaluationSetup) -> None:
        self.right = setup.first_ranks == 0
        self._setup, target_fn = setup, setup.target.model_fn_for(None)

        def run(batch: tuple[Tensor, Tensor], seed: Tensor) -> Tensor:
            del seed
            images, labels = batch
            return rank_labels(target_fn(images), labels) == 0

        self._run: BatchFunction = setup.batch_function(run)

    def is_right(self, images: np.ndarray) -> np.ndarray:
        """Returns (examples,) bool: which of the attacked images of all examples are classified correctly."""
        setup, seed = self._setup, seeds.as_seed(self._setup.seed)
        values = (images, setup.sparse_labels)
        return by_batch(lambda batch, _: self._run(batch, seed), values, setup.batch_size)


def _verdict(attack: str, names: list[str], target: int, robust: np.ndarray, more: str) -> dict[str, Any]:
    """Returns the verdict on a target. `robust` is (sources, examples) bool: which examples withstand which source."""
    accuracy = robust.mean(axis=1)
    source = min((index for index in range(len(names)) if index != target), key=lambda index: accuracy[index])
    found = is_stronger(robust[source], robust[target])
    opening = "Gradient shattering" if found else "No sign of gradient shattering"
    return {
        "target": names[target],
        "attack": attack,
        "source": names[source],
        "white_box": float(accuracy[target]),
        "transferred": float(accuracy[source]),
        "shattered": found,
        "reason": f"{opening}: {percent(accuracy[source])} of the examples withstand the attack crafted on "
        f"{names[source]!r}, {percent(accuracy[target])} the attack on {names[target]!r} itself.{more}",
    }
