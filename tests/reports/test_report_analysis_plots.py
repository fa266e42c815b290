"""The plots of the analyses, and their place on the page."""

import numpy as np
import pytest
from report_pages import Page, check_picture, decode

from keras_robust.reports import render_html
from keras_robust.reports.analyses import AccuracyCurve
from keras_robust.reports.analysis_plots import curve_picture, pictures

ITERATIONS, EPSILONS, TRANSFER, SURFACE, LARGE = range(5)


def test_page_with_every_section_is_self_contained(full_record, full_samples):
    """Two examples of three pictures, two training curves, two lines, two heat maps, four pairs and three of images."""
    source = render_html(full_record, full_samples)
    page = Page(source)
    page.check_self_contained()
    assert len(page.pictures) == 6 + 2 + 2 + 2 + 8 + 6
    assert "url(" not in source
    assert source == render_html(full_record, full_samples)


def test_page_shows_every_analysis(full_record, full_samples):
    text = Page(render_html(full_record, full_samples)).text
    for expected in (
        "⚠ Accuracy still falls at 2,000 iterations.",
        "Accuracy falls to zero.",
        "Transferred examples are stronger.",
        "Label 4, from above",
        "✗ predicted 5, wrong",
        "sha256=" + "ab" * 32,
    ):
        assert expected in text


def test_pairs_have_the_right_pixels(full_record, full_samples):
    """The second of three images of 20 pixels from 0 to 1 begins at 20 / 59; the attack inverts it."""
    uris = [uri for alt, uri in Page(render_html(full_record, full_samples)).pictures if "of label 1" in alt]
    clean, attacked = (decode(uri) for uri in uris[-2:])
    assert clean[0, 0].tolist() == [86] * 3  # 255 * 20 / 59
    assert attacked[0, 0].tolist() == [169] * 3


@pytest.mark.parametrize("field", ["images", "attacked", "labels", "attacked_predictions"])
def test_missing_pictures_are_named(full_record, full_samples, field):
    del full_samples[f"large_epsilon/{field}"]
    with pytest.raises(ValueError, match=rf"samples: 'large_epsilon/{field}'. Received: keys"):
        render_html(full_record, full_samples)


def test_pictures_that_do_not_belong_together(full_record, full_samples):
    full_samples["large_epsilon/attacked_predictions"] = np.zeros(2)
    with pytest.raises(
        ValueError, match=r"large_epsilon/attacked_predictions must have 3 values, one per label. Received: 2"
    ):
        render_html(full_record, full_samples)


def test_descriptions_have_the_numbers(analyses):
    assert pictures(analyses[ITERATIONS])[0].description == (
        "Line plot over iterations: PGD (Linf 0.3, step 0.01) from 80.0 % at 10 to 65.0 % at 2,000."
    )
    maps = pictures(analyses[TRANSFER])
    assert [heat_map.heading for heat_map in maps] == ["FGSM (Linf 0.3)", "PGD-40 (Linf 0.3)"]
    assert maps[0].description.endswith(
        "Lowest per target: runs/robust/best.keras 50.0 % on examples of runs/plain/best.keras."
    )


def test_at_most_four_surfaces_are_drawn(analyses):
    """Of five examples the first four, each as a surface and from above."""
    found = pictures(analyses[SURFACE])
    assert [picture.heading for picture in found[::2]] == ["Label 4", "Label 3", "Label 2", "Label 1"]
    assert len(found) == 8


@pytest.mark.parametrize("losses", [[[0.0] * 2] * 3, [[float("nan")] * 2] * 3, [[None, 1.0], [2.0, 3.0], [1e30, 0.0]]])
def test_any_losses_can_be_drawn(analyses, losses):
    for picture in pictures(analyses[SURFACE] | {"losses": [losses], "labels": [7]}):
        check_picture(picture.uri)


@pytest.mark.parametrize("name", ["$x_1", "a" * 200, "runs/" * 20, "", "<&>"])
def test_any_name_can_be_drawn(analyses, name):
    transfer = analyses[TRANSFER] | {"sources": [name, "other"], "verdicts": []}
    check_picture(pictures(transfer)[0].uri)
    curves = [AccuracyCurve(name, [1], [0.5]), AccuracyCurve("other", [1, 10**6], [0.5, 0.25])]
    check_picture(curve_picture(curves, "iterations", logarithmic=True).uri)
