"""The passes of a training step: what they compute is what TensorFlow counts in the step itself."""

import keras
import pytest
import tensorflow as tf
from counted_operations import profiled_operations
from makers import ATTACK, BALL, METHODS, loss_for

import keras_robust as kr
from keras_robust.tools.planning.costs import cost_of
from keras_robust.tools.planning.passes import ATTACK as ATTACK_PART
from keras_robust.tools.planning.passes import attack_passes, training_passes, validation_passes

pytestmark = pytest.mark.graph

BATCH = 4
ARCHITECTURES = {"lenet": kr.architectures.LeNet, "resnet20": kr.architectures.ResNet20}


def make_ensemble(classifier):
    """With a static model as dear as the classifier: which of the two is attacked does not matter."""
    return kr.EnsembleAdversarialTraining(classifier, ATTACK, source_models=[keras.models.clone_model(classifier)])


MAKERS = {**METHODS, "ensemble": make_ensemble}


@pytest.mark.filterwarnings("ignore:.*tensor_shape_from_node_def_name.*")
@pytest.mark.parametrize("method", MAKERS)
@pytest.mark.parametrize("architecture", ["lenet", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_operations_are_those_that_tensorflow_counts_in_the_training_step(architecture, method):
    """For every method exactly: of convolutions and matrix products, which the profiler counts node by node."""
    classifier = ARCHITECTURES[architecture]()
    model = MAKERS[method](classifier)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss_for(method))
    shape = (BATCH, *classifier.input_shape[1:])
    model.make_replica_state(tf.zeros(shape), tf.zeros(BATCH, tf.int64), replicas=1)
    labels = tf.TensorSpec((BATCH, 10)) if method == "mixup" else tf.TensorSpec(BATCH, tf.int64)
    repeats = getattr(model.attack, "steps", 0)
    expected = profiled_operations(
        lambda images, labels: model.train_step((images, labels))["loss"], tf.TensorSpec(shape), labels, repeats=repeats
    )
    assert sum(one.count * cost_of(one).flops for one in training_passes(model, BATCH)) == expected > 0


def described(passes):
    return [(one.part, one.name, one.images, one.count) for one in passes]


def test_an_ensemble_attacks_each_of_its_models_as_often(linear_classifier):
    sources = [linear_classifier(seed=1), linear_classifier(seed=2)]
    model = kr.EnsembleAdversarialTraining(linear_classifier(), ATTACK, source_models=sources)
    *attacks, update = training_passes(model, 6)
    assert [one.classifier for one in attacks] == [model.classifier, *sources]
    assert described(attacks) == [("attack", "input gradient", 6, pytest.approx(2 / 3))] * 3
    assert described([update]) == [("update", "training", 12, 1)]


def test_a_fraction_of_clean_images_is_rounded_as_in_training(linear_classifier):
    model = kr.AdversarialTraining(linear_classifier(), ATTACK, clean_fraction=0.3)
    assert training_passes(model, 5)[-1].images == 5 + 2
    assert training_passes(model, 1)[-1].images == 1 + 1


@pytest.mark.parametrize(
    ("options", "gradients", "forwards"),
    [
        ({"steps": 7}, 7, 0),
        ({"steps": 7, "restarts": 3}, 21, 3),
        ({"steps": 7, "eot_iter": 5}, 35, 0),
        ({"steps": 7, "restarts": 3, "eot_iter": 5, "target": "least_likely"}, 105, 16),
        ({"steps": 7, "objective": "kl_divergence"}, 7, 1),
        ({"steps": 7, "target": "least_likely"}, 7, 1),
        ({"steps": 7, "target": "random"}, 7, 0),
        ({"steps": 7, "target": "least_likely", "restarts": 2}, 14, 3),
    ],
)
def test_passes_of_an_attack(linear_classifier, options, gradients, forwards):
    """As the docstring of `pgd` has them."""
    passes = attack_passes(kr.attacks.PGD(BALL, **options), linear_classifier(), 2)
    counts = {one.name: one.count for one in passes}
    assert counts == {"input gradient": gradients} | ({"forward": forwards} if forwards else {})


def test_validation_classifies_clean_and_attacked_images(linear_classifier):
    """Without an attack the clean images alone."""
    attacked = kr.NaturalTraining(linear_classifier(), validation_attack=kr.attacks.PGD(BALL, steps=3))
    assert described(validation_passes(attacked, 4)) == [
        (ATTACK_PART, "input gradient", 4, 3),
        ("validation", "forward", 8, 1),
    ]
    plain = kr.NaturalTraining(linear_classifier())
    assert described(validation_passes(plain, 4)) == [("validation", "forward", 4, 1)]


def test_another_attack_is_refused(linear_classifier):
    with pytest.raises(ValueError, match="Received: APGD"):
        attack_passes(kr.attacks.APGD(BALL), linear_classifier(), 2)
