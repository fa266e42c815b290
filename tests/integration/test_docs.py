"""The documentation: links and paths in it and in the README exist, and the code of the pages for users runs."""

import pathlib
import re

import pytest

from keras_robust.core.checks import ONE_LOGIT
from keras_robust.data.augmentation import AUGMENTATIONS
from keras_robust.evaluation import SUITES
from keras_robust.training import build
from keras_robust.training.config import DEFAULTS, REQUIRED

ROOT = pathlib.Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FINDINGS = ROOT / "findings"
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", FINDINGS / "README.md", *PAGES]


def anchors_of(page):
    """Returns the anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_exist(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors_of(linked), f"{target}#{anchor}"


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page):
    for path in re.findall(r"\b(?:configs|launch|benchmarks)/[\w/]+\.(?:py|sh|yaml)\b", page.read_text()):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_navigation():
    assert set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) == {
        page.name for page in PAGES
    }


def test_every_finding_is_listed():
    listed = re.findall(r"^\| `(\w+\.sh)` \|", (FINDINGS / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name for path in FINDINGS.glob("*.sh"))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_page_of_configs_has_every_field_and_name():
    page = (ROOT / "docs" / "configs.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (required|`[^`]*`) \|", page, re.MULTILINE))
    defaults = {field: "required" if default == REQUIRED else f"`{default!r}`" for field, default in DEFAULTS.items()}
    assert documented == {field: default.replace("'", '"') for field, default in defaults.items()}
    sections = {
        "classifier": build.CLASSIFIERS,
        "method": build.METHODS,
        "attack": build.ATTACKS,
        "optimizer": build.OPTIMIZERS,
    }
    table = page.partition("| section | names |")[2]
    for section, names in sections.items():
        (listed,) = re.findall(rf"^\| `{section}` \| ((?:`\w+`(?:, )?)+)[; |]", table, re.MULTILINE)
        assert re.findall(r"`(\w+)`", listed) == sorted(names), section


@pytest.mark.parametrize(
    ("page", "heading", "names"),
    [
        ("evaluation.md", "| `--suite` |", SUITES),
        ("classifiers.md", "| `augmentation` |", AUGMENTATIONS),
    ],
)
def test_tables_have_every_name(page, heading, names):
    table = (ROOT / "docs" / page).read_text().partition(heading)[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(names)


def test_the_code_of_the_questions_runs():
    codes = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "faq.md").read_text(), re.DOTALL)
    for code, classes in zip(codes, (10, 2), strict=True):
        namespace: dict = {}
        exec(code, namespace)
        assert namespace["model"].classifier.output_shape == (None, classes)


def test_the_lines_for_one_logit_are_those_of_the_message():
    page = (ROOT / "docs" / "faq.md").read_text()
    for line in ONE_LOGIT.splitlines()[1:4]:
        assert (
            line.strip().replace("classifier.outputs", "network.outputs").replace("classifier.in", "network.in") in page
        )
