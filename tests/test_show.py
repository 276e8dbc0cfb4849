"""The contact sheet shows what is in a corpus, worst first, and is harmless whatever the files are called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import check_self_contained, elements
from small_corpus import EVIL, write_corpus, write_domains

from img2img_data.errors import CorpusError
from img2img_data.show import write_show

LAYOUTS = ("folders", "combined")


def cards(page: str) -> list[dict[str, str | None]]:
    return [a for a in elements(page, "figure") if str(a.get("class", "")).startswith("card")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_page_holds_every_pair_under_a_slider(tmp_path: Path, layout: str) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 5, "test": 3}, layout)
    path = write_show(corpus)
    page = path.read_text("utf-8")
    assert path == corpus / "show.html"
    check_self_contained(page)
    assert len(cards(page)) == 8
    assert [c["data-split"] for c in cards(page)].count("test") == 3
    sliders = [a for a in elements(page, "input") if a.get("type") == "range"]
    assert len(sliders) == 8
    assert all(a["aria-label"] for a in sliders)
    assert all(
        a["alt"] and str(a["src"]).startswith("data:image/webp;base64,") for a in elements(page, "img")
    )
    assert "sigma <b>0.9</b>" in page


def test_worst_come_first_and_the_rest_is_typical(tmp_path: Path) -> None:
    page = write_show(write_corpus(tmp_path / "c", {"train": 12}), limit=6).read_text("utf-8")
    shown = cards(page)
    differences = [float(str(c["data-difference"])) for c in shown]
    assert [c["data-why"] for c in shown] == ["worst"] * 3 + ["typical"] * 3
    assert differences[:3] == sorted(differences[:3], reverse=True)
    assert min(differences[:3]) >= max(differences[3:])


def test_refusals_are_counted_with_their_meaning(tmp_path: Path) -> None:
    page = write_show(write_corpus(tmp_path / "c", {"train": 2})).read_text("utf-8")
    row = re.search(r'<tr><td class="n">2</td><td>grey</td>', page)
    assert row
    assert "a black-and-white photo" in page


def test_unpaired_pictures_stand_side_by_side_without_sliders(tmp_path: Path) -> None:
    page = write_show(write_domains(tmp_path / "h2z", 3)).read_text("utf-8")
    check_self_contained(page)
    assert len(cards(page)) == 6
    assert not [a for a in elements(page, "input") if a.get("type") == "range"]


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "<b>&amp;", {"train": 3}, names=(EVIL, "\"'><script>alert(1)</script>"))
    page = write_show(corpus).read_text("utf-8")
    check_self_contained(page)
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<b>&amp;amp;" not in page


def test_same_corpus_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4})
    first, second = (write_show(corpus, tmp_path / "pages" / name) for name in ("1.html", "2.html"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in first.parent.iterdir()) == ["1.html", "2.html"]


def test_lab_targets_are_shown_in_their_colours(tmp_path: Path) -> None:
    plain, lab = (
        write_show(write_corpus(tmp_path / colour, {"train": 1}, info={"colour": colour})).read_text("utf-8")
        for colour in ("rgb", "lab")
    )
    plain_images, lab_images = ([a["src"] for a in elements(page, "img")] for page in (plain, lab))
    assert sum(a != b for a, b in zip(plain_images, lab_images, strict=True)) == 1


def test_an_empty_split_and_a_damaged_picture(tmp_path: Path) -> None:
    empty = write_show(write_corpus(tmp_path / "empty", {"train": 0} | {"val": 1})).read_text("utf-8")
    assert len(cards(empty)) == 1
    corpus = write_corpus(tmp_path / "damaged", {"train": 1})
    (corpus / "train" / "input" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CorpusError, match="verify"):
        write_show(corpus)
