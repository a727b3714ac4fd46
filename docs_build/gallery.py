"""Draw the pictures of docs/gallery.md with the code that stands there: `make gallery`.

Reads runs/smollm2 and runs/demo in the working directory, made by the commands that the page names,
and writes docs/gallery/*.webp. Needs kaleido and a Chromium browser.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "gallery.md"
WIDTH = 900
"""Pixels; a picture has 1.33 times as many."""
_PART = re.compile(
    r"^```python\n(.*?)^```$|^!\[[^\]]*\]\((gallery/[\w-]+\.webp)\)$", re.DOTALL | re.M
)


def figures() -> Iterator[tuple[str, Any]]:
    """The path of each picture beside the page, and the `figure` of the code above it."""
    found: dict[str, Any] = {}
    for code, picture in _PART.findall(PAGE.read_text("utf-8")):
        if picture:
            yield picture, found.pop("figure")
        else:
            exec(compile(code, PAGE.name, "exec"), found)


if __name__ == "__main__":
    (PAGE.parent / "gallery").mkdir(exist_ok=True)
    for picture, figure in figures():
        target = PAGE.parent / picture
        figure.write_image(target, format="webp", width=WIDTH, scale=4 / 3)
        print(f"{target}: {target.stat().st_size / 1024:.0f} KiB")
