"""The HTML page: complete, self-contained and safe whatever the record says."""

import numpy as np
import pytest
from report_pages import Page, check_picture, decode

from keras_robust.reports import render_html, write_report

HOSTILE = "<script>alert('x')</script>\"><img src=http://example.org/x.png>"


def test_page_is_self_contained(record, samples):
    source = render_html(record, samples)
    page = Page(source)
    assert len(page.references) == 8  # two examples of three pictures, two figures
    page.check_self_contained()
    assert "url(" not in source
    assert "@import" not in source


def test_same_record_gives_the_same_page(record, samples):
    assert render_html(record, samples) == render_html(record, samples)


def test_page_shows_verdict_table_samples_and_provenance(record, samples):
    text = Page(render_html(record, samples)).text
    for expected in (
        "90.0 % correct on clean images; 70.0 % still correct under PGD-40 Linf 0.3, step 0.01, 5 restarts",
        "White box.",
        # The score interval of 7 in 10 (Wilson, 1927).
        "39.7 to 89.2 %",
        "PGD(threat_model=Linf(epsilon=0.3, bounds=[0, 1]), steps=40, step_size=0.01), restarts=5",
        "✗ predicted 9, wrong",
        "launch/evaluate.py --model=runs/demo/best.keras",
        "in training name=pgd, steps=7",
    ):
        assert expected in text


@pytest.mark.parametrize("field", ["model", "attack", "dataset", "check", "black_box", "setting", "sample"])
def test_hostile_text_stays_text(record, samples, field):
    if field == "model":
        record["model"]["source"] = HOSTILE
    elif field == "attack":
        record["attacks"] = {HOSTILE: 0.7}
        record["details"] = {HOSTILE: next(iter(record["details"].values()))}
    elif field == "check":
        record["checks"][0]["reason"] = HOSTILE
    elif field == "setting":
        next(iter(record["details"].values()))["settings"] = {HOSTILE: HOSTILE}
    elif field == "sample":
        samples["attack_name"] = np.array(HOSTILE)
    else:
        record["dataset" if field == "dataset" else "black_box_source"] = HOSTILE
    page = Page(render_html(record, samples))
    assert "script" not in page.tags
    assert all(reference.startswith("data:") for reference in page.references)
    assert HOSTILE in page.text


def test_pictures_have_the_right_pixels(record, samples):
    """0.5 is 127.5, rounded to even; +0.3 is the peak, so white; -0.15 is half of it, 63.75; unchanged is mid grey."""
    page = Page(render_html(record, samples))
    clean, perturbation, attacked = (decode(uri) for _, uri in page.pictures[:3])
    assert clean.shape == (4, 5, 3)
    np.testing.assert_array_equal(clean, 128)
    expected = np.full((4, 5, 3), 128)
    expected[0, 0], expected[1, 1] = 255, 64
    np.testing.assert_array_equal(perturbation, expected)
    expected[0, 0], expected[1, 1] = 204, 89  # 0.8 and 0.35
    np.testing.assert_array_equal(attacked, expected)
    assert "amplified 1.67 times" in page.text  # 0.5 / 0.3


def test_of_other_channels_than_colours_the_mean_is_shown(record, samples):
    assert "channels" not in Page(render_html(record, samples)).text
    for name in ("images", "attacked"):
        samples[name] = np.concatenate([samples[name], np.zeros_like(samples[name])], axis=-1)
    page = Page(render_html(record, samples))
    np.testing.assert_array_equal(decode(page.pictures[0][1]), 64)  # 0.25 * 255
    assert "The pictures show the mean of the 2 channels." in page.text


def test_bounds_of_the_threat_model_are_used(record, samples):
    record["threat_model"]["bounds"] = [-1.0, 1.0]
    page = Page(render_html(record, samples))
    assert decode(page.pictures[0][1])[3, 3].tolist() == [191, 191, 191]  # 0.75 * 255
    assert "amplified 3.33 times" in page.text


def test_colour_images_share_one_amplification(record, samples):
    samples["images"] = np.repeat(samples["images"], 3, axis=-1)
    samples["attacked"] = samples["images"].copy()
    samples["attacked"][0, 0, 0] += np.array([0.1, -0.2, 0.0], np.float32)
    page = Page(render_html(record, samples))
    assert decode(page.pictures[1][1])[0, 0].tolist() == [191, 0, 128]
    assert "amplified 2.5 times" in page.text
    assert "no change" in page.text


def test_no_samples(record, samples):
    samples = {name: array[:0] if array.ndim else array for name, array in samples.items()}
    page = Page(render_html(record, samples))
    assert "No sample images were kept." in page.text
    assert page.tags.count("img") == 2


@pytest.mark.parametrize("training", [None, {"config": {}, "history": {}}, {"config": None, "history": {"epoch": []}}])
def test_no_history(record, samples, training):
    record["training"] = training
    assert "No training history is recorded" in Page(render_html(record, samples)).text


def test_curves_are_readable_svg_with_the_last_values_as_text(record, samples):
    pictures = Page(render_html(record, samples)).pictures[-2:]
    assert pictures[0][0] == (
        "Accuracy by epoch. Values of the last epoch: training, clean 90.0 %; validation, attacked 65.3 %."
    )
    assert "training, objective 1; validation, objective nan" in pictures[1][0]
    for _, uri in pictures:
        check_picture(uri)


@pytest.mark.parametrize("history", [{"accuracy": [0.5]}, {"loss": [float("nan")]}, {"$x_loss": [1.0, 2.0]}])
def test_any_part_of_a_history(record, samples, history):
    record["training"]["history"] = history
    assert len(Page(render_html(record, samples)).pictures) == 7


def test_suspicious_checks_are_shown_with_their_reason(record, samples):
    record["checks"][0] |= {"suspicious": True, "reason": "One step beats forty."}
    text = Page(render_html(record, samples)).text
    assert "Gradient masking suspected. 1 of 1 gradient masking check suspicious" in text
    assert "⚠ Suspicious" in text
    assert "One step beats forty." in text
    assert "An upper bound" not in text


def test_missing_samples_are_named(record, samples):
    del samples["attacked"]
    with pytest.raises(ValueError, match=r"samples: 'attacked'. Received: keys .*'images'"):
        render_html(record, samples)


@pytest.mark.parametrize(("name", "shape"), [("attacked", (2, 4, 4, 1)), ("clean_predictions", (1,)), ("labels", (3,))])
def test_samples_that_do_not_belong_together(record, samples, name, shape):
    samples[name] = np.zeros(shape)
    with pytest.raises(ValueError, match="Received: "):
        render_html(record, samples)


@pytest.mark.parametrize(("shape", "size"), [((4, 5), (5, 4)), ((6,), (6, 1)), ((4, 5, 2, 3), (5, 4))])
def test_images_of_any_shape_are_shown(record, samples, shape, size):
    """A vector is one row of pixels."""
    samples["images"] = samples["attacked"] = np.zeros((2, *shape), np.float32)
    assert render_html(record, samples).count('width="{}" height="{}"'.format(*size)) == 6


def test_samples_that_are_no_images_raise(record, samples):
    samples["images"] = samples["attacked"] = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"channels\). Received: \(2,\)"):
        render_html(record, samples)


def test_write_report_writes_both_files(record, samples, tmp_path):
    write_report(record, samples, tmp_path)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == render_html(record, samples)
    assert (tmp_path / "report.md").read_text(encoding="utf-8").startswith("# Robustness of runs/demo/best.keras")


def test_an_incomplete_record_writes_nothing(record, samples, tmp_path):
    del samples["labels"]
    with pytest.raises(ValueError, match="labels"):
        write_report(record, samples, tmp_path)
    assert list(tmp_path.iterdir()) == []
