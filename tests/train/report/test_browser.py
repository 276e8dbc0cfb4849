"""Pages in a real browser: sliders, filters, orders and keys work, and nothing is requested."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_corpus import EVIL, write_corpus, write_domains

from img2img_data.core.jsonl import read_rows
from img2img_data.inspect.corpus_page import write_corpus_page

WIDTHS = (390, 1280)


class OpenedPage:
    """A page in the browser, with its requests and errors."""

    def __init__(self, browser: Any, path: Path, width: int = 1280) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800})
        self.url = path.resolve().as_uri()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type != "log" else None,
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(f"dialog {dialog.message}"))
        self.page.goto(self.url)

    def check_quiet(self) -> None:
        assert self.errors == []
        outside = [url for url in self.requests if url != self.url and not url.startswith("data:")]
        assert outside == []
        assert self.page.evaluate(
            "[...document.images].every((i) => i.complete && i.naturalWidth > 0)"
        )

    def check_fits(self) -> None:
        wide, seen = self.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen

    def unfold(self) -> None:
        self.page.evaluate(
            "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
        )

    def shown(self, attribute: str = "data-place") -> list[str]:
        cards = self.page.locator(".gallery .card:visible")
        return [str(card.get_attribute(attribute)) for card in cards.all()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_corpus(
        tmp_path_factory.mktemp("show") / "c", {"train": 6, "test": 3}, names=(EVIL,)
    )
    for split in ("train", "test"):
        path = root / split / "metadata.jsonl"
        rows = read_rows(path)
        for number, row in enumerate(rows):
            row["tags"] = {"gender": ("male", "female")[number % 2], "person": f"{split}-{number}"}
            row["kind"] = ("blur", "resize")[number // 2 % 2]
            row["measured"] = {"shift_x": number - 1.5}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_corpus_page(root)
    return root


@pytest.fixture
def page(browser: Any, corpus: Path) -> Iterator[OpenedPage]:
    opened = OpenedPage(browser, corpus / "show.html")
    yield opened
    opened.check_quiet()
    opened.page.close()


def cut_of(page: Any) -> str:
    return str(
        page.evaluate("getComputedStyle(document.querySelector('.compare .before')).clipPath")
    )


def check_slider(page: Any) -> None:
    slider = page.locator(".compare input").first
    before = cut_of(page)
    slider.fill("20")
    dragged = cut_of(page)
    slider.focus()
    page.keyboard.press("ArrowRight")
    one = cut_of(page)
    page.keyboard.press("End")
    assert len({before, dragged, one, cut_of(page)}) == 4
    assert slider.input_value() == "100"


def test_slider_moves_by_hand_and_by_keys(page: OpenedPage) -> None:
    check_slider(page.page)
    box = page.page.locator(".compare").nth(1).bounding_box()
    page.page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    assert 20 <= int(page.page.locator(".compare input").nth(1).input_value()) <= 30


def select_of(page: Any, label: str) -> Any:
    return page.locator(".controls label", has_text=label).locator("select")


def test_filters_filter_and_together_too(page: OpenedPage) -> None:
    assert len(page.shown()) == 9
    select_of(page.page, "split").select_option("test")
    assert page.shown("data-split") == ["test"] * 3
    select_of(page.page, "gender").select_option("female")
    assert len(page.shown()) == 1
    assert page.page.locator("[data-shown]").inner_text() == "1"
    select_of(page.page, "kind").select_option("resize")
    assert page.shown() == []
    page.page.get_by_role("button", name="Show all").click()
    assert len(page.shown()) == 9
    assert not page.page.locator("[data-no-match]").is_visible()


def test_search_finds_names_tags_and_settings(page: OpenedPage) -> None:
    search = page.page.locator("input[type=search]")
    search.fill("train-4")
    assert len(page.shown()) == 1
    search.fill("person TEST  sigma")
    assert page.shown("data-split") == ["test"] * 3
    search.fill("no such thing")
    assert page.shown() == []
    search.fill("")
    assert len(page.shown()) == 9


def test_orders_sort(page: OpenedPage) -> None:
    order = select_of(page.page, "order")
    for value, sign in (("difference up", 1), ("difference down", -1)):
        order.select_option(value)
        differences = [sign * float(d) for d in page.shown("data-difference")]
        assert differences == sorted(differences)
    order.select_option(label="sigma, descending")
    sigmas = [float(s) for s in page.shown("data-n0")]
    assert sigmas == sorted(sigmas, reverse=True)
    assert len(set(sigmas)) > 2


def test_everything_can_be_reached_by_keys(page: OpenedPage) -> None:
    reached = set()
    for _ in range(30):
        page.page.keyboard.press("Tab")
        reached.add(
            page.page.evaluate(
                "document.activeElement.tagName + (document.activeElement.type ?? '')"
            )
        )
    assert {"A", "INPUTsearch", "SELECTselect-one", "INPUTrange"} <= reached


def test_histograms_are_of_all_rows(page: OpenedPage) -> None:
    titles = page.page.locator(".bars h3").all_inner_texts()
    assert {"sigma", "shift_x", "kind", "gender"} <= set(titles)
    bars = page.page.locator(".bars", has_text="sigma").locator("i[title]").all()
    labels = [str(bar.get_attribute("title")) for bar in bars]
    assert sum(int(label.rpartition(": ")[2].split()[0]) for label in labels) == 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_and_are_quiet(
    browser: Any, corpus: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    domains = write_corpus_page(write_domains(tmp_path / "h2z", 3))
    for path in (corpus / "show.html", domains):
        opened = OpenedPage(browser, path, width)
        opened.page.emulate_media(color_scheme=scheme)
        opened.check_fits()
        opened.check_quiet()
        ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(json.loads(f"[{ground[4:-1]}]")) > 382) == (scheme == "light")
        opened.page.close()


# ------------------------------------------------------------------------------ pages of training
def write_tagged_run(tmp_path: Path) -> tuple[Path, Path]:
    """Write a run and a corpus whose images have a gender, one of which is a script."""
    from fake_models import write_run
    from small_corpus import tagged

    corpus = tagged(
        tmp_path / "c", 8, lambda n: {"gender": ("male", EVIL)[n % 2], "person": f"p{n}"}
    )
    return write_run(tmp_path / "run"), corpus


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from img2img_train.evaluation.evaluate import evaluate_matrix, evaluate_run
    from img2img_train.evaluation.results import write_matrix
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report

    root = tmp_path_factory.mktemp("reports")
    run, corpus = write_tagged_run(root)
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    matrix = evaluate_matrix(
        [run, run / "checkpoints" / "best.safetensors"], [corpus], EvaluateSettings(device="cpu")
    )
    return {"run": write_run_report(run), "matrix": write_matrix(matrix, root / "out")}


@pytest.fixture(params=["run", "matrix"])
def report(
    request: pytest.FixtureRequest, browser: Any, reports: dict[str, Path]
) -> Iterator[OpenedPage]:
    opened = OpenedPage(browser, reports[request.param])
    opened.unfold()
    yield opened
    opened.check_quiet()
    opened.page.close()


def test_slider_of_a_report_moves_by_mouse_and_keys(report: OpenedPage) -> None:
    check_slider(report.page)
    slider = report.page.locator(".compare input").nth(1)
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    report.page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    report.page.mouse.down()
    report.page.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=4)
    report.page.mouse.up()
    assert 85 <= int(slider.input_value()) <= 95


def test_slider_of_a_report_moves_by_touch(browser: Any, reports: dict[str, Path]) -> None:
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(reports["run"].resolve().as_uri())
    slider = page.locator(".compare input").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    touch = context.new_cdp_session(page)
    middle = box["y"] + box["height"] / 2
    for kind, share in (
        ("touchStart", 0.5),
        ("touchMove", 0.6),
        ("touchMove", 0.9),
        ("touchEnd", None),
    ):
        points = [] if share is None else [{"x": box["x"] + box["width"] * share, "y": middle}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert 85 <= int(slider.input_value()) <= 95
    assert "90" in cut_of(page) or "10" in cut_of(page)
    context.close()


def test_a_report_is_filtered_by_tag_and_words(report: OpenedPage) -> None:
    total = len(report.shown())
    select_of(report.page, "gender").select_option("male")
    assert len(report.shown()) == total // 2
    assert report.page.locator("[data-shown]").inner_text() == str(total // 2)
    report.page.locator("input[type=search]").fill("P4")
    assert 1 <= len(report.shown()) <= 2
    report.page.locator("input[type=search]").fill("no such thing")
    assert report.shown() == []
    report.page.get_by_role("button", name="Show all").click()
    assert len(report.shown()) == total


def test_a_matrix_is_filtered_by_run(browser: Any, reports: dict[str, Path]) -> None:
    opened = OpenedPage(browser, reports["matrix"])
    opened.unfold()
    total = len(opened.shown())
    select_of(opened.page, "run").select_option("run")
    assert len(opened.shown()) == total // 2
    opened.check_quiet()
    opened.page.close()


def test_a_report_is_sorted_by_every_order(report: OpenedPage) -> None:
    sorting = report.page.locator("[data-sort]")
    for option in sorting.locator("option").all():
        name, direction = str(option.get_attribute("value")).split()
        sorting.select_option(label=option.inner_text())
        values = [float(value) for value in report.shown(f"data-{name}")]
        assert values == sorted(values, reverse=direction == "down")
    sorting.select_option("place up")
    scores = [float(score) for score in report.shown("data-m0")]
    assert scores == sorted(scores)


def test_j_and_k_go_from_image_to_image(report: OpenedPage) -> None:
    place = (
        "[...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card'))"
    )
    seen = []
    for key in "jjjk":
        report.page.keyboard.press(key)
        seen.append(report.page.evaluate(place))
    assert seen == [0, 1, 2, 1]
    outline = "getComputedStyle(document.activeElement.closest('.compare')).outlineStyle"
    assert report.page.evaluate(outline) == "solid"
    select_of(report.page, "gender").select_option("male")
    report.page.keyboard.press("j")
    gender = report.page.locator(".controls label", has_text="gender").locator("select")
    number = gender.get_attribute("data-pick")
    focused = "document.activeElement.closest('.card').dataset"
    assert report.page.evaluate(f"{focused}.{number}") == "male"
    search = report.page.locator("input[type=search]")
    search.fill("")
    search.press("j")
    assert search.input_value() == "j"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_reports_fit_and_can_be_read(
    browser: Any, reports: dict[str, Path], width: int, scheme: str
) -> None:
    """Text on every colored field has the contrast of WCAG 2, level AA: 4.5 to 1."""
    for path in reports.values():
        opened = OpenedPage(browser, path, width)
        opened.page.emulate_media(color_scheme=scheme)
        opened.check_fits()
        opened.check_quiet()
        opened.unfold()
        opened.check_fits()
        assert opened.page.locator(".heat td.good, .heat td.bad, .heat td.even").count() > 2
        assert opened.page.evaluate(CONTRAST) >= 4.5
        opened.page.close()


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = 21;
  for (const field of document.querySelectorAll(".heat tbody td")) {
    for (const share of ["12%", "50%"]) {
      field.style.setProperty("--heat", share);
      const style = getComputedStyle(field);
      const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
      least = Math.min(least, (a + 0.05) / (b + 0.05));
    }
  }
  return least;
}"""


def test_200_triples_stay_below_5_mb(browser: Any, tmp_path: Path) -> None:
    from fake_models import write_run

    from img2img_train.evaluation.evaluate import evaluate_run
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report

    corpus, run = (
        write_corpus(tmp_path / "c", {"test": 4}, size=(256, 256)),
        write_run(tmp_path / "run"),
    )
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    (saved,) = (run / "evaluation").glob("*.json")
    content = json.loads(saved.read_text())
    content["gallery"] = [
        {**card, "key": f"{n} {card['key']}"} for n in range(50) for card in content["gallery"]
    ]
    assert (
        sum(len(webp) for card in content["gallery"] for webp in card["webp"].values()) > 5_000_000
    )
    saved.write_text(json.dumps(content | {"images": 200}))
    path = write_run_report(run)
    assert 1_000_000 < path.stat().st_size < 5_000_000
    opened = OpenedPage(browser, path)
    assert opened.page.locator(".gallery .card").count() == 200
    opened.check_quiet()
    opened.page.close()


def test_a_phone_shows_all_scores_and_a_desk_all_charts(browser: Any, tmp_path: Path) -> None:
    from fake_models import write_run

    from img2img_train.evaluation.evaluate import evaluate_run
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report

    corpus, run = write_corpus(tmp_path / "c", {"test": 4}), write_run(tmp_path / "run")
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"))
    (saved,) = (run / "evaluation").glob("*.json")
    content = json.loads(saved.read_text())
    # Colors that inputs have already have no columns.
    content["input_scores"] |= {"lab-a": 1, "lab-b": 1}
    saved.write_text(json.dumps(content))
    path = write_run_report(run)
    opened = OpenedPage(browser, path, 500)
    assert opened.page.locator(".tile").count() == 4
    table = "(({ scrollWidth, clientWidth }) => scrollWidth <= clientWidth)"
    assert opened.page.evaluate(f"{table}(document.querySelector('#scores ~ .wide'))")
    tops = "new Set([...document.querySelectorAll('{}')].map((e) => e.offsetTop)).size"
    assert opened.page.evaluate(tops.format(".tile")) == 2
    opened.page.close()
    opened = OpenedPage(browser, path, 1200)
    assert opened.page.evaluate(tops.format(".chart")) == 1
    opened.page.close()
    # The seven columns of a task that changes colors need more room.
    content["input_scores"] |= {"lab-a": 0, "lab-b": 0}
    saved.write_text(json.dumps(content))
    write_run_report(run)
    for width in (800, 1200):
        opened = OpenedPage(browser, path, width)
        assert opened.page.locator("#scores ~ .wide .input td").count() == 7
        assert opened.page.evaluate(f"{table}(document.querySelector('#scores ~ .wide'))")
        opened.page.close()


def test_report_and_matrix_of_the_trainer(browser: Any, tmp_path: Path) -> None:
    from fake_models import write_run

    from img2img_train.evaluation.evaluate import evaluate_matrix, evaluate_run
    from img2img_train.evaluation.results import write_matrix
    from img2img_train.evaluation.settings import EvaluateSettings
    from img2img_train.report.page import write_run_report

    corpus = write_corpus(tmp_path / "c", {"test": 6}, crops=2, names=(EVIL,))
    run = write_run(tmp_path / "run")
    evaluate_run(run, corpus, EvaluateSettings(device="cpu"), gallery=6)
    matrix = write_matrix(
        evaluate_matrix([run], [corpus], EvaluateSettings(device="cpu")), tmp_path / "out"
    )
    for width in WIDTHS:
        for path in (write_run_report(run), matrix):
            opened = OpenedPage(browser, path, width)
            opened.check_fits()
            opened.check_quiet()
            opened.page.close()
    opened = OpenedPage(browser, run / "report.html")
    check_slider(opened.page)
    opened.page.locator("[data-slide]").select_option("input target output")
    assert opened.page.locator(".compare .right").first.inner_text() == "target"
    opened.check_quiet()
    opened.page.close()


@pytest.mark.slow
def test_charts_samples_and_enlarged_images(
    browser: Any, reports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One visit of a report and of a comparison, with mouse and keys."""
    from img2img_train.report.page import write_comparison

    opened = OpenedPage(browser, reports["run"])
    page = opened.page
    loss, psnr = page.locator(".chart").nth(0), page.locator(".chart").nth(1)
    # The values below the mouse, and the same by keys.
    psnr.scroll_into_view_if_needed()
    box = psnr.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.97, box["y"] + 50)
    assert "epoch 3" in psnr.locator(".hover").inner_text()
    assert "model 23 dB" in psnr.locator(".hover").inner_text()
    psnr.locator("svg").focus()
    page.keyboard.press("ArrowLeft")
    assert "epoch 2" in psnr.locator(".hover").inner_text()
    # Scale, smoothing, and lines that are hidden.
    path = loss.locator("path").last
    drawn = [path.get_attribute("d")]
    loss.locator("[data-log]").click()
    drawn.append(path.get_attribute("d"))
    page.locator("[data-smooth]").fill("0.9")
    drawn.append(loss.locator("path").last.get_attribute("d"))
    assert len(set(drawn)) == 3
    assert loss.locator("path.raw").get_attribute("d") == drawn[1]
    psnr.locator("[data-line=input]").click()
    assert psnr.locator("svg path.dashed").count() == 0
    # The samples over the epochs.
    frames = page.locator("[data-frame]")
    frames.fill("0")
    assert page.locator(".frames output").inner_text() == "epoch 1"
    assert page.locator(".frames img:visible").count() == 3
    page.keyboard.press("a")
    page.locator(".frames output", has_text="epoch 3").wait_for()
    # Enlarged: all panes show the same part; the difference is there; keys go on and back.
    page.locator(".frames .still button").focus()
    page.keyboard.press("Enter")
    panes = page.locator(".lightbox .pane")
    assert panes.count() == 4
    page.keyboard.press("+")
    box = panes.first.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.wheel(0, -400)
    page.mouse.down()
    page.mouse.move(box["x"] + 25, box["y"] + 30, steps=3)
    page.mouse.up()
    views = "[...document.querySelectorAll('.pane img')].map((i) => getComputedStyle(i).transform)"
    (view,) = set(page.evaluate(views))
    page.keyboard.press("0")
    assert set(page.evaluate(views)) == {"matrix(1, 0, 0, 1, 0, 0)"} != {view}
    page.keyboard.press("Escape")
    assert not page.locator(".lightbox").is_visible()
    page.locator(".gallery .compare input").first.click()
    shown = page.locator(".lightbox strong").inner_text()
    page.keyboard.press("j")
    assert page.locator(".lightbox strong").inner_text() != shown
    page.keyboard.press("Escape")
    # Keys and theme.
    page.keyboard.press("?")
    assert page.locator("dialog.keys").is_visible()
    page.keyboard.press("Escape")
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(color)
    page.keyboard.press("t")
    assert page.evaluate(color) != light
    opened.check_quiet()
    page.close()

    monkeypatch.chdir(reports["run"].parent.parent)
    shutil.copytree("run", tmp_path / "other")
    path = write_comparison([Path("run"), tmp_path / "other"], tmp_path / "comparison.html")
    for width in WIDTHS:
        opened = OpenedPage(browser, path, width)
        lines = opened.page.locator(".chart").first.locator("svg > g path")
        assert lines.count() == 2
        opened.page.locator("[data-runs] button").first.click()
        assert lines.count() == 1
        opened.page.locator(".frames .still button").first.click()
        assert opened.page.locator(".lightbox .pane").count() == 6
        opened.check_fits()
        opened.check_quiet()
        opened.page.close()
