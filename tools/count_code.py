"""Count lines of code by room, without blank lines, comments and docstrings.

Example:
  python tools/count_code.py
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

PACKAGES = ("img2img_data", "img2img_train")
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        for item in body if isinstance(body, list) else []:
            value = getattr(item, "value", None) if isinstance(item, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                lines -= set(range(item.lineno, (item.end_lineno or item.lineno) + 1))
    return lines


def comment_lines(text: str) -> int:
    """Return the number of lines that hold a comment and nothing else."""
    return sum(line.lstrip().startswith("#") for line in text.splitlines())


def count_rooms(root: Path) -> dict[str, tuple[int, int]]:
    """Return (lines of code, lines of comments) of each room below ``root``."""
    code, comments = Counter[str](), Counter[str]()
    for package in PACKAGES:
        for path in (root / package).rglob("*.py"):
            parts = path.relative_to(root).parts
            room = "/".join(parts[:2]) if len(parts) > 2 else package
            text = path.read_text("utf-8")
            code[room] += len(code_lines(text))
            comments[room] += comment_lines(text)
    return {room: (code[room], comments[room]) for room in sorted(code)}


def main() -> None:
    """Print the counts of every room and of both packages."""
    rooms = count_rooms(Path(__file__).parents[1])
    print(f"{'code':>7} {'comments':>9}")
    for room, (code, comments) in rooms.items():
        print(f"{code:7,} {comments:9,}  {room}")
    for package in PACKAGES:
        code, comments = (
            sum(count[i] for room, count in rooms.items() if room.startswith(package))
            for i in (0, 1)
        )
        print(f"{code:7,} {comments:9,}  {package} in all, {comments / code:.1%} comments")


if __name__ == "__main__":
    main()
