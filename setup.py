"""The build: recipes stay at the top of the repository and ship inside of the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithRecipes(build_py):
    """Put a copy of ``recipes/`` into ``img2img_data``, where ``shipped_recipes`` finds it."""

    def run(self) -> None:
        """Build, then copy; an editable install reads the recipes of the repository."""
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib, "img2img_data", "recipes")
            # Anew, so that no recipe is left of an earlier build in the same folder.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for recipe in (ROOT / "recipes").glob("*.yaml"):
                shutil.copy(recipe, folder)


def description() -> str:
    """Return the README without its images, and with text for links into the repository.

    A page of the package has no other files, so images and relative links would be broken there.
    """
    text = (ROOT / "README.md").read_text("utf-8")
    # An image is a paragraph of its own, and so is the caption in italics that follows it.
    image, caption = r"^!\[[^\]]*\]\((?!https?:)[^)]*\)\n\n", r"(\*[^*\n].*?\*\n\n)?"
    text = re.sub(image + caption, "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]*\)", r"\1", text)


setup(
    cmdclass={"build_py": BuildWithRecipes},
    long_description=description(),
    long_description_content_type="text/markdown",
)
