"""Tables, code and plain text in Markdown as GitHub reads it."""

from collections.abc import Iterable

from keras_robust.reports import formatting
from keras_robust.reports.tables import Table

# Characters that would end a table cell or start a tag, a link, an image, emphasis or code.
_ESCAPES = str.maketrans(
    {"\\": r"\\", "|": r"\|", "`": r"\`", "*": r"\*", "[": r"\[", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def escape(text: str) -> str:
    """Text in one line that is shown as it is."""
    return " ".join(text.split()).translate(_ESCAPES)


def table(content: Table) -> str:
    """A table; its texts are escaped."""
    rule = ["---:" if side == "r" else "---" for side in content.alignment]
    rows = [content.columns, *content.rows]
    lines = [[escape(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])


def bullets(items: Iterable[tuple[str, str]]) -> str:
    """A list of (name, text), the name in bold."""
    return "\n".join(f"- **{escape(name)}**: {escape(text)}" for name, text in items)


def code_block(value: object) -> str:
    """Indented JSON in a fence."""
    # A line of JSON never starts with a fence: line breaks inside its strings are escaped.
    return f"```json\n{formatting.pretty_json(value)}\n```"
