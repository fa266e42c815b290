"""Writes docs/errors.md: every error and warning of the package, from its source.

python docs/make_errors.py
"""

import ast
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"
BEFORE = """# Errors and warnings

Every message of the package, by module, as `python docs/make_errors.py` finds it in the source. A message says what is
wrong, then what was received, and where it helps, what to do. `{...}` stands for a value that the message fills in.
"""


def messages_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yields (kind of error or warning, message) of a module, in the order of its lines."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            found.append((node.lineno, ast.unparse(node.exc.func), node.exc.args[0]))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("warnings.warn", "refuse"):
            kind = "UserWarning" if ast.unparse(node.func) == "warnings.warn" else "ValueError"
            found.append((node.lineno, kind, node.args[0]))
    for _, kind, message in sorted(found, key=lambda each: each[0]):
        text = text_of(message)
        if len(text.split()) > 2:  # not `raise ValueError(message)`
            yield kind, text


def text_of(node: ast.expr) -> str:
    """Returns a message as it is read in the source, with the expressions in it in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return text_of(node.left) + text_of(node.right)
    return "{" + ast.unparse(node) + "}"


def render() -> str:
    """Returns the page."""
    parts = [BEFORE]
    for path in sorted((ROOT / "keras_robust").rglob("*.py")):
        messages = list(messages_of(ast.parse(path.read_text())))
        if messages:
            parts.append(f"\n## {path.relative_to(ROOT)}\n\n")
            parts += [f"- `{kind}`: {escaped(message)}\n" for kind, message in messages]
    return "".join(parts)


def escaped(message: str) -> str:
    """Returns a message on one line, in which Markdown has no marks of its own."""
    line = " ".join(message.split())
    for mark in "\\*_<>[]|`":
        line = line.replace(mark, "\\" + mark)
    return line


if __name__ == "__main__":
    PAGE.write_text(render())
