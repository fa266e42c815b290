"""The pages' templates: Jinja files beside this one, which share `base.html` and `macros.html`."""

import pathlib
from typing import Any

import jinja2


def render(template: str, **content: Any) -> str:
    """A template with its content, whose text is escaped; a name that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content)
