"""The page of a corpus: pairs with the largest difference first, harmless for any file name."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from command_line import run
from conftest import write_photos
from hypothesis import given
from hypothesis import strategies as st
from pages import check_self_contained, elements
from small_corpus import EVIL, write_corpus, write_domains, write_lab

from img2img_data.core.errors import REASONS, CorpusError, Img2ImgError, UsageError
from img2img_data.core.jsonl import read_rows
from img2img_data.corpus.format import FORMAT
from img2img_data.corpus.reader import open_corpus
from img2img_data.images import io
from img2img_data.inspect.corpus_page import write_corpus_page
from img2img_data.inspect.statistics import NumberCounts, count_corpus, draw_numbers

LAYOUTS = ("folders", "combined")


def cards(page: str) -> list[dict[str, str | None]]:
    return [a for a in elements(page, "figure") if str(a.get("class", "")).startswith("card")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_page_holds_every_pair_under_a_slider(tmp_path: Path, layout: str) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 5, "test": 3}, layout)
    path = write_corpus_page(corpus)
    page = path.read_text("utf-8")
    assert path == corpus / "show.html"
    check_self_contained(page)
    assert len(cards(page)) == 8
    assert [c["data-split"] for c in cards(page)].count("test") == 3
    sliders = [a for a in elements(page, "input") if a.get("type") == "range"]
    assert len(sliders) == 8
    assert all(a["aria-label"] for a in sliders)
    assert all(
        a["alt"] and str(a["src"]).startswith("data:image/webp;base64,")
        for a in elements(page, "img")
    )
    assert "sigma <b>0.9</b>" in page


def test_half_of_the_cards_have_the_largest_difference(tmp_path: Path) -> None:
    page = write_corpus_page(write_corpus(tmp_path / "c", {"train": 12}), limit=6).read_text(
        "utf-8"
    )
    shown = cards(page)
    differences = [float(str(c["data-difference"])) for c in shown]
    assert [c["data-group"] for c in shown] == ["worst"] * 3 + ["typical"] * 3
    assert differences[:3] == sorted(differences[:3], reverse=True)
    assert min(differences[:3]) >= max(differences[3:])


def test_rejections_are_counted_with_their_meaning(tmp_path: Path) -> None:
    page = write_corpus_page(write_corpus(tmp_path / "c", {"train": 2})).read_text("utf-8")
    assert f"<summary><b>2</b>gray: {REASONS['gray']}</summary>" in page
    folded = re.findall("<details class=.reasons.>.*?</details>", page, re.S)
    rows = read_rows(tmp_path / "c" / "rejected.jsonl")
    assert all(
        f"<td>{row['source']}</td>" in text
        for text in folded
        for row in rows
        if f">{row['reason']}:" in text
    )


def test_unpaired_images_have_no_sliders(tmp_path: Path) -> None:
    page = write_corpus_page(write_domains(tmp_path / "h2z", 3)).read_text("utf-8")
    check_self_contained(page)
    assert len(cards(page)) == 6
    for limit in (1, 3):
        page = write_corpus_page(tmp_path / "h2z", limit=limit).read_text("utf-8")
        assert len(cards(page)) == limit
    assert not [a for a in elements(page, "input") if a.get("type") == "range"]


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "<b>&amp;", {"train": 3}, names=(EVIL, "\"'><script>alert(1)</script>")
    )
    page = write_corpus_page(corpus).read_text("utf-8")
    check_self_contained(page)
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "<b>&amp;amp;" not in page


def test_same_corpus_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4})
    first, second = (
        write_corpus_page(corpus, tmp_path / "pages" / name) for name in ("1.html", "2.html")
    )
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in first.parent.iterdir()) == ["1.html", "2.html"]


def test_lab_targets_are_shown_in_their_colors(tmp_path: Path) -> None:
    root = write_lab(tmp_path / "c", {"train": 1})
    lab = write_corpus_page(root).read_text("utf-8")
    (root / "corpus.json").write_text(json.dumps({"format": FORMAT}))
    plain = write_corpus_page(root).read_text("utf-8")
    plain_images, lab_images = ([a["src"] for a in elements(page, "img")] for page in (plain, lab))
    assert sum(a != b for a, b in zip(plain_images, lab_images, strict=True)) == 1


def test_an_empty_split_and_a_damaged_image(tmp_path: Path) -> None:
    empty = write_corpus_page(
        write_corpus(tmp_path / "empty", {"train": 0} | {"val": 1})
    ).read_text("utf-8")
    assert len(cards(empty)) == 1
    corpus = write_corpus(tmp_path / "damaged", {"train": 1})
    (corpus / "train" / "input" / "000.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(CorpusError, match="verify"):
        write_corpus_page(corpus)


# ------------------------------------------------------------------------------ corpora of any size
def fake_rows(corpus: Path, split: str, count: int) -> None:
    """Write ``count`` rows of a split that all name its few images."""
    path = corpus / split / "metadata.jsonl"
    rows = read_rows(path)
    fakes = [
        {
            **rows[n % len(rows)],
            "key": f"{split}-{n:05d}",
            "drawn": {"sigma": n / 10, "mode": "ab"[n % 2]},
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in fakes))


def test_a_large_corpus_is_sampled_but_all_rows_are_counted(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4, "test": 2})
    fake_rows(corpus, "train", 3000)
    fake_rows(corpus, "test", 60)
    page = write_corpus_page(corpus, limit=20).read_text("utf-8")
    assert len(cards(page)) == 20
    assert "3,000" in page
    assert re.search(
        r">20 of the 3,060 pairs, from a random sample of 1,0\d\d: first the 10 ", page
    )
    assert "0 to 255), then 10 spread evenly over the rest." in page
    bars = re.findall(r'title="[\d.]+ to [\d.]+: ([\d,]+) pairs"', page)
    assert sum(int(count.replace(",", "")) for count in bars) == 3060
    assert "a 1,530, b 1,530" in page
    again, other = (
        write_corpus_page(corpus, tmp_path / f"{n}.html", 20, seed=n).read_text("utf-8")
        for n in (0, 1)
    )
    assert again == page
    assert other != page


def test_one_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 5, "test": 3})
    assert {
        c["data-split"] for c in cards(write_corpus_page(corpus, split="test").read_text("utf-8"))
    } == {"test"}
    with pytest.raises(UsageError, match="it has train, test"):
        write_corpus_page(corpus, split="tset")


def test_a_sample_is_even_and_has_every_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 2, "test": 2})
    fake_rows(corpus, "train", 4000)
    fake_rows(corpus, "test", 40)
    opened = open_corpus(corpus, rows=False)
    counted, sample = count_corpus(opened, opened.splits, 200, 0, lambda: None)
    assert counted.counts == {("train", ""): 4000, ("test", ""): 40}
    places = [int(e.key[-5:]) for e in sample if e.split == "train"]
    assert 150 <= len(places) <= 200
    assert len(sample) - len(places) == 10
    quarters = [sum(q * 1000 <= place < (q + 1) * 1000 for place in places) for q in range(4)]
    assert min(quarters) > 25


def test_a_page_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a folder"):
        write_corpus_page(corpus, tmp_path)
    with pytest.raises(Img2ImgError, match="cannot write"):
        write_corpus_page(corpus, tmp_path / "file" / "page.html")
    with pytest.raises(Img2ImgError, match=r"cannot write .* File name too long"):
        write_corpus_page(corpus, tmp_path / ("a" * 300))


def test_nested_parameters_are_shortened(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 20})
    path = corpus / "train" / "metadata.jsonl"
    rows = read_rows(path)
    for number, row in enumerate(rows):
        deep = {f"{n}.chain.{n}.jpeg.quality": number for n in range(20)}
        row["drawn"] = {**deep, "1.noise.seed": 10**12 + number}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_corpus_page(corpus).read_text("utf-8")
    assert "jpeg.quality <b>" in page
    assert ">noise.seed" not in page
    assert "<summary>8 more</summary>" in page
    assert "3.chain.3.jpeg.quality" in page


def test_histograms_state_what_is_counted_and_the_unit(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("degradation:\n  - noise: {sigma: [5, 25]}\n  - jpeg: {quality: [30, 90]}\n")
    photos = write_photos(tmp_path / "photos", 9)
    run("degrade", photos, tmp_path / "c", "--recipe", recipe, "--jobs", 1)
    page = write_corpus_page(tmp_path / "c").read_text("utf-8")
    assert "<h3>noise.sigma <span>gray levels (0 to 255)</span></h3>" in page
    assert page.count("Bars count all 9 pairs") == 1
    peaks = re.findall(r'"peak">(.*?)</span>', page)
    assert all(re.fullmatch(r"1 pair|(?!1 )\d+ pairs", peak) for peak in peaks)
    assert len(peaks) >= 2
    assert ": 1 pair" in page
    command = re.sub("<.*?>", "", page.partition("Built on ")[2].partition("</code>")[0])
    assert " ".join(command.split()).endswith("img2img-data degrade SOURCE c --recipe RECIPE")
    assert "<var>SOURCE</var> is the folder of the original images, <var>RECIPE</var> a " in page
    assert "All 9 pairs: first the 5 whose input and target differ most (mean " in page
    assert "0 to 255), then the other 4." in page
    assert "1 pairs" not in page


@pytest.mark.parametrize(
    ("count", "limit", "sentence"),
    [
        (1, 9, "The only pair (mean absolute difference in gray levels, 0 to 255). Move"),
        (3, 1, "1 of the 3 pairs: the one whose input and target differ most (mean"),
        (3, 2, "2 of the 3 pairs: first the one whose input"),
        (2, 9, "All 2 pairs: first the one whose input"),
    ],
)
def test_a_sentence_says_which_pairs_are_shown(
    count: int, limit: int, sentence: str, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": count})
    assert f'<p class="quiet">{sentence}' in write_corpus_page(corpus, limit=limit).read_text()


def test_a_pair_of_two_files_has_both_names_where_they_differ(tmp_path: Path) -> None:
    for side in "AB":
        write_photos(tmp_path / side, 2)
    (tmp_path / "B/001.jpg").rename(tmp_path / "B/001.x.jpg")
    words = ["--match", "template", "--template-a", "{id}.jpg", "--template-b", "{id}.x.jpg"]
    run("combine", tmp_path / "A", tmp_path / "B", tmp_path / "c", *words, "--allow-unpaired")
    run("combine", tmp_path / "A", tmp_path / "B", tmp_path / "d", "--allow-unpaired")
    for corpus, names in (("c", "001.jpg | 001.x.jpg"), ("d", "000.jpg")):
        page = write_corpus_page(tmp_path / corpus).read_text("utf-8")
        assert re.findall(r'<span class="name">(.*?)</span>', page) == [names]
        assert "audit-shift" not in page.partition("</code>")[0], "the settings are the defaults"


def test_strange_rows_are_shown(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 6})
    path = corpus / "train" / "metadata.jsonl"
    rows = read_rows(path)
    strange = [
        {"tags": {"a": [1, {"b": None}]}, "drawn": None, "measured": None, "kind": ""},
        {"drawn": {"sigma": 10**400, "a": [[[1.5]]]}, "tags": {"a": 10**400}, "source": ""},
        {"drawn": {"\u202e": "\0"}, "measured": {"m": True}},
        {"drawn": {"sigma": 1e308}, "measured": {"m": -1e308}, "width": 2**31 - 1},
        {"drawn": {f"p{n}": n for n in range(1000)}, "tags": {str(n): "x" for n in range(1000)}},
    ]
    fakes = [{**row, **odd} for row, odd in zip(rows, strange, strict=False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*fakes, rows[5]]))
    page = write_corpus_page(corpus).read_text("utf-8")
    check_self_contained(page)
    assert len(cards(page)) == 6


def test_tags_with_few_values_have_a_select(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 20})
    path = corpus / "train" / "metadata.jsonl"
    rows = read_rows(path)
    for number, row in enumerate(rows):
        row["tags"] = {"gender": ("male", None)[number % 2], "person": f"p{number}", EVIL: True}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_corpus_page(corpus).read_text("utf-8")
    check_self_contained(page)
    assert EVIL not in page
    assert "<label>gender <select" in page
    assert "<label>person" not in page
    assert "person p7" in page
    assert "gender unknown" in page


@pytest.mark.slow
def test_in_a_browser_a_view_is_shared_by_its_address(tmp_path: Path, browser: Any) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 4, "test": 2})
    fake_rows(corpus, "train", 90)
    fake_rows(corpus, "test", 70)
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    asked, faults = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    address = write_corpus_page(corpus).as_uri()
    page.goto(address)
    visible = page.locator(".card:visible")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visible.count() == 60
    page.locator("[data-state=split]").select_option("test")
    page.locator("[data-sort]").select_option(label="sigma, descending")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("n")
    assert page.url == f"{address}#?split=test&order=sigma%2C+descending&page=2"
    keys = visible.evaluate_all("cards => cards.map((card) => card.dataset.key)")
    assert keys == [f"test-{n:05d}" for n in range(9, -1, -1)]
    shared = browser.new_page()
    shared.goto(page.url)
    assert shared.locator(".card:visible").first.get_attribute("data-key") == keys[0]
    page.locator(".places a").nth(1).click()  # a section: the address still names the view
    assert "page=2" in page.url
    visible.first.locator("input").click()
    assert page.locator(".lightbox .pane").count() == 3
    page.keyboard.press("Escape")
    page.locator("[type=search]").fill("no such name")
    page.locator("[data-reset]").click()
    assert (page.url, visible.count()) == (f"{address}#?order=sigma%2C+descending", 60)
    assert (faults, [url for url in asked if not url.startswith(("file:", "data:"))]) == ([], [])
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(address)
    assert plain.locator(".card:visible").count() == 160
    assert plain.locator(".controls:visible").count() == 0


STORED = {
    "16 bit": np.full((20, 24, 3), 257 * 100, np.uint16),
    "gray": np.full((20, 24), 100, np.uint8),
    "16 bit gray": np.full((20, 24), 257 * 100, np.uint16),
}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", STORED)
def test_images_of_any_depth_are_shown(tmp_path: Path, name: str, bits: int) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 1}, size=(24, 20), info={"bits": bits})
    data = cv2.imencode(".png", STORED[name])[1].tobytes()
    for side in ("input", "target"):
        (corpus / "train" / side / "000.png").write_bytes(data)
    page = write_corpus_page(corpus).read_text("utf-8")
    shown = [str(a["src"]).partition(",")[2] for a in elements(page, "img")]
    for uri in shown:
        pixels = io.decode(b64decode(uri)).pixels
        assert pixels.shape == (20, 24, 3)
        assert np.abs(pixels.astype(int) - 100).max() <= 2


# ------------------------------------------------------------------------------------ histograms
VALUES = st.lists(
    st.floats(-1e6, 1e6, allow_nan=False) | st.integers(-1000, 1000).map(float),
    min_size=2,
    max_size=300,
)


@given(VALUES)
def test_bars_count_every_value(values: list[float]) -> None:
    spread = NumberCounts()
    for value in values:
        spread.add(value)
    assert spread.bins.total() == len(values)
    drawn = draw_numbers("x", spread)
    if drawn is None:
        assert len(set(values)) == 1
        return
    counts = [int(bar.label.rpartition(": ")[2].replace(",", "")) for bar in drawn.bars]
    assert sum(counts) == len(values)
    assert len(drawn.bars) <= 50
    assert max(bar.height for bar in drawn.bars) == 100
    assert all(0 <= bar.height <= 100 for bar in drawn.bars)
    lefts = [left for left, _ in drawn.ticks]
    assert 1 <= len(lefts) <= 7
    assert lefts == sorted(lefts)
    assert 0 <= lefts[0] <= lefts[-1] <= 100


def test_counting_does_not_depend_on_order_and_stays_small() -> None:
    values = np.random.default_rng(0).normal(3, 1, 30_000)
    forward, backward = NumberCounts(), NumberCounts()
    for value in values:
        forward.add(float(value))
    for value in values[::-1]:
        backward.add(float(value))
    assert (forward.bins, forward.width) == (backward.bins, backward.width)
    assert len(forward.bins) <= 4096
    assert forward.median() == pytest.approx(float(np.median(values)), abs=0.01)


def test_a_demo_is_built_by_its_recipe_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skimage")
    from img2img_data.cli.recipe import load_recipe
    from img2img_data.cli.steps import run_and_print
    from img2img_data.inspect.demo_photos import write_demo_photos

    steps = load_recipe(Path(__file__).parents[3] / "recipes" / "demo.yaml")
    monkeypatch.chdir(tmp_path)
    photos = write_demo_photos(steps[0].paths[0])
    for photo in photos[4:]:
        photo.unlink()
    for step in steps:
        run_and_print(step.name, step.paths, {**step.settings, "jobs": 1})
    # All tiles of a photo are in one split, and every photo has as many.
    rows = [read_rows(step.paths[-1] / split / "metadata.jsonl") for split in ("train", "test")]
    train, test = ([row["source"] for row in split] for split in rows)
    assert not {*train} & {*test}
    assert {len(train + test) // 4} == {*Counter(train + test).values()}
    page = write_corpus_page(step.paths[-1], limit=6).read_text("utf-8")
    check_self_contained(page)
    assert len(cards(page)) == 6
