"""Statistics of batch normalisation, against NumPy, and their report."""

import keras
import numpy as np
import pytest

import keras_robust as kr

ATTACK = kr.attacks.FGSM(kr.Linf(0.1))


def prepared(conv_classifier, mixture: bool) -> keras.Model:
    classifier = conv_classifier(batch_norm=True)
    if mixture:
        classifier = kr.layers.replace_normalization(classifier, "mixture_batch")
    rng = np.random.default_rng(0)
    for variable in classifier.non_trainable_variables:
        variable.assign(rng.uniform(0.5, 2.0, variable.shape))
    return classifier


@pytest.mark.parametrize("mixture", [False, True])
def test_series_are_moving_averages_and_batches(conv_classifier, batch, mixture):
    """The first convolution of FGSM images, in two batches of 8; all 4 channels."""
    classifier = prepared(conv_classifier, mixture)
    images, labels = batch(count=20)
    facts = kr.evaluation.normalization_statistics(classifier, (images, labels), ATTACK, batch_size=8)
    names = ["moving average, clean", "moving average, adversarial"] if mixture else ["moving average"]
    assert [one["name"] for one in facts["series"]] == [*names, "batch 1, attacked", "batch 2, attacked"]
    assert facts["channels"] == [0, 1, 2, 3]
    norm = classifier.layers[1]
    own = norm.adversarial if mixture else norm
    np.testing.assert_allclose(facts["series"][len(names) - 1]["mean"], own.moving_mean, rtol=1e-6)
    attacked = ATTACK(kr.attacks.as_model_fn(classifier), images[:8], labels[:8], 0)
    features = classifier.layers[0](attacked).numpy()
    np.testing.assert_allclose(facts["series"][-2]["mean"], features.mean(axis=(0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(facts["series"][-2]["variance"], features.var(axis=(0, 1, 2)), rtol=1e-4)
    ratio = np.median(features.var(axis=(0, 1, 2)) / np.asarray(own.moving_variance))
    assert f"{ratio:.2f} times the moving average" in facts["verdict"]
    assert ("that of clean ones" in facts["verdict"]) == mixture


def test_the_report_shows_them(conv_classifier, batch, tmp_path):
    classifier, data = prepared(conv_classifier, True), batch(count=16)
    facts = kr.evaluation.normalization_statistics(classifier, data, ATTACK, batch_size=8, channels=3)
    assert len(facts["channels"]) == 3
    report = kr.evaluate(
        classifier, data, ATTACK, checks=False, analyses={"normalization": lambda: facts}, verbose=False
    )
    report.save(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "Statistics of batch normalisation" in page
    assert facts["verdict"] in (tmp_path / "report.md").read_text()
    assert page.count("per channel: moving average, clean") == 2


def test_bad_input(conv_classifier, batch):
    data = batch(count=16)
    with pytest.raises(ValueError, match=r"one of \[\]. Received: layer=None"):
        kr.evaluation.normalization_statistics(conv_classifier(), data, ATTACK)
    with pytest.raises(ValueError, match="Received: layer='norm'"):
        kr.evaluation.normalization_statistics(prepared(conv_classifier, False), data, ATTACK, layer="norm")
    with pytest.raises(ValueError, match="Received: 16 images"):
        kr.evaluation.normalization_statistics(prepared(conv_classifier, False), data, ATTACK, batch_size=10)


def test_the_suite_reads_a_file(conv_classifier, batch, tmp_path):
    prepared(conv_classifier, True).save(tmp_path / "model.keras")
    report = kr.evaluation.evaluate_suite(
        "normalization", str(tmp_path / "model.keras"), batch(count=16), ATTACK, batch_size=8, branch="clean"
    )
    (facts,) = report.record["analyses"]
    expected = kr.evaluation.normalization_statistics(tmp_path / "model.keras", batch(count=16), ATTACK, batch_size=8)
    assert facts["series"] == expected["series"]
    assert "clean branch" in report.record["model"]["source"]


def test_layers_are_those_of_a_keras_model(batch):
    for model in ("nowhere.keras", lambda images: images):
        with pytest.raises(ValueError, match="Received: model="):
            kr.evaluation.normalization_statistics(model, batch(count=16), ATTACK, batch_size=8)
