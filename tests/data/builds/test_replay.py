"""Corpora of every degradation: same bytes for any number of workers, inputs replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import pair_rows, run, tree
from conftest import write_photos
from degradation_examples import KINDS, LIGHT, example

from img2img_data.builds.replay import replay_pair
from img2img_data.cli.steps import run_step
from img2img_data.core.errors import CorpusError, Img2ImgError, UsageError
from img2img_data.core.settings_model import OPTIONS
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.degradations.spec import parse_assignments, to_spec


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("sources") / "photos", 6, 21, 18)


def degrade(photos: Path, out: Path, kind: str, **settings: Any) -> Path:
    settings = {"degradation": to_spec(example(kind)), "jobs": 1, **settings}
    _, code = run_step("degrade", (photos, out), settings, lambda done, total: None, print)
    assert code == 0
    return out


def rewrite(path: Path, change: Any) -> None:
    """Change each row of a manifest, or the page of a corpus, by a function."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    changed = [json.loads(line) for line in lines]
    for content in changed:
        change(content)
    path.write_text("".join(json.dumps(content) + "\n" for content in changed))


@pytest.mark.parametrize("kind", KINDS)
def test_one_and_two_workers_give_the_same_bytes_and_every_input_is_made_again(
    kind: str, images: Path, tmp_path: Path
) -> None:
    one = degrade(images, tmp_path / "one", kind)
    two = degrade(images, tmp_path / "two", kind, jobs=2)
    assert tree(one) == tree(two)
    border, card = DEGRADATIONS[kind].border, (one / "README.md").read_text()
    assert (f"- {kind}: beyond its border the image is {border}" in card) == bool(border)
    framed = degrade(images, tmp_path / "framed", kind, layout="combined", size="17x12")
    for corpus in (one, framed):
        for key in ("000", "004"):
            assert replay_pair(corpus, key, images).equal
            assert replay_pair(corpus, key).equal


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "gaussian", "sigma": 1.5},
        {"kind": "random-gaussian", "size": "16", "fit": "pad"},
        {"kind": "resize", "layout": "combined"},
        {"kind": "gaussian", "format": "webp", "quality": 100, "size": "16"},
        {"kind": "gaussian", "format": "jpg"},
    ],
)
def test_blur_corpora_are_replayed(settings: dict[str, Any], images: Path, tmp_path: Path) -> None:
    run_step("blur", (images, tmp_path / "out"), settings, lambda done, total: None, print)
    assert replay_pair(tmp_path / "out", "001", images).equal
    assert replay_pair(tmp_path / "out", "001").equal


def test_what_is_made_can_be_kept(images: Path, tmp_path: Path) -> None:
    out = degrade(images, tmp_path / "out", "noise")
    replay_pair(out, "002", images, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (
        out / "train" / "input" / "002.png"
    ).read_bytes()
    with pytest.raises(UsageError, match="already exists"):
        replay_pair(out, "002", images, tmp_path / "again.png")


def test_linked_sources_are_replayed(images: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for path in images.iterdir():
        (links / path.name).symlink_to(path)
    corpus = degrade(links, tmp_path / "out", "noise", follow_links=True)
    assert replay_pair(corpus, "000", links).equal
    (links / "000.jpg").unlink()
    (links / "000.jpg").symlink_to(images / "001.jpg")
    with pytest.raises(CorpusError, match="not the image from which"):
        replay_pair(corpus, "000", links)


def test_other_numbers_or_bytes_are_reported(images: Path, tmp_path: Path) -> None:
    out = degrade(images, tmp_path / "out", "noise")
    rewrite(out / "train" / "metadata.jsonl", lambda row: row["drawn"].update(seed=1))
    result = replay_pair(out, "000", images)
    assert not result.equal
    assert "differs" in result.lines[-1]
    other = degrade(images, tmp_path / "other", "noise")
    (other / "train" / "input" / "000.png").write_bytes(b"torn")
    assert not replay_pair(other, "000", images).equal


def test_what_cannot_be_replayed_says_why(images: Path, tmp_path: Path) -> None:
    lossy = degrade(images, tmp_path / "lossy", "noise", format="jpg", size="16")
    assert replay_pair(lossy, "000", images).equal
    with pytest.raises(CorpusError, match=r"with loss.*--source"):
        replay_pair(lossy, "000")
    with pytest.raises(UsageError, match="not in the corpus"):
        replay_pair(lossy, "nope", images)
    changed = write_photos(tmp_path / "changed", 6, 22, 18)
    with pytest.raises(CorpusError, match="not the image"):
        replay_pair(lossy, "000", changed)
    (changed / "000.jpg").unlink()
    with pytest.raises(CorpusError, match="vanished"):
        replay_pair(lossy, "000", changed)
    run_step("combine", (images, images, tmp_path / "both"), {}, lambda done, total: None, print)
    with pytest.raises(CorpusError, match="not computed from single images"):
        replay_pair(tmp_path / "both", "000", images)


@pytest.mark.parametrize("command", ["lab", "grayscale", "blank", "edges"])
def test_other_pairings_of_one_photo_are_replayed_too(
    command: str, images: Path, tmp_path: Path
) -> None:
    run_step(command, (images, tmp_path / "out"), {}, lambda done, total: None, print)
    assert replay_pair(tmp_path / "out", "003", images).equal
    if command == "lab":
        with pytest.raises(UsageError, match="--source"):
            replay_pair(tmp_path / "out", "003")
    else:
        assert replay_pair(tmp_path / "out", "003").equal


@pytest.mark.parametrize("command", ["blur", "blank", "edges"])
def test_a_row_that_lost_a_drawn_value_is_one_line(
    command: str, images: Path, tmp_path: Path
) -> None:
    run_step(command, (images, tmp_path / "out"), {}, lambda done, total: None, print)
    drawn = pair_rows(tmp_path / "out")[0]["drawn"]
    for name in drawn:
        left = {other: value for other, value in drawn.items() if other != name}
        rewrite(
            tmp_path / "out" / "train" / "metadata.jsonl",
            lambda row, left=left: row.update(drawn=left),
        )
        with pytest.raises(CorpusError, match="does not match its recipe"):
            replay_pair(tmp_path / "out", "000")
    rewrite(tmp_path / "out" / "train" / "metadata.jsonl", lambda row: row.pop("drawn"))
    with pytest.raises(CorpusError, match="does not match its recipe"):
        replay_pair(tmp_path / "out", "000")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("source_hex", b"../photos/000.jpg".hex()),
        ("source_hex", b"/etc/passwd".hex()),
        ("source_hex", "zz"),
        ("drawn", {"sigma": "3", "seed": 1}),
        ("drawn", {"image": 3, "sigma": 2, "seed": 4}),
        ("drawn", {}),
        ("drawn", [1]),
        ("drawn", {"sigma": 3, "seed": -1}),
    ],
)
def test_a_hostile_row_is_one_line(
    column: str, value: object, images: Path, tmp_path: Path
) -> None:
    out = degrade(images, tmp_path / "out", "noise")
    rewrite(out / "train" / "metadata.jsonl", lambda row: row.update({column: value}))
    with pytest.raises(Img2ImgError):
        replay_pair(out, "000", images)


def test_a_recipe_without_its_command_is_replayed(images: Path, tmp_path: Path) -> None:
    out = degrade(images, tmp_path / "out", "noise")
    rewrite(out / "corpus.json", lambda page: page["recipe"].pop("command"))
    assert replay_pair(out, "000", images).equal


def test_a_hostile_recipe_is_one_line(images: Path, tmp_path: Path) -> None:
    out = degrade(images, tmp_path / "out", "noise")
    for wrong in (
        [],
        {"command": "degrade"},
        {"command": "degrade", "degradation": {"os.system": {}}},
    ):
        rewrite(out / "corpus.json", lambda page, recipe=wrong: page.update(recipe=recipe))
        with pytest.raises(Img2ImgError):
            replay_pair(out, "000", images)


# ------------------------------------------------------------------------------------- commands
RECIPE = """
degradation:
  - one-of: [{gaussian: {sigma: [0.2, 3]}, weight: 2}, {motion: {length: [3, 15]}}]
  - noise: {sigma: [1, 25]}
  - jpeg: {quality: [30, 95]}
corpus:
  - degrade: {source: photos, out: out}
  - degrade: {source: photos, out: other, degradation: {median: {size: 3}}}
"""


def test_a_recipe_serves_degrade_and_build(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 3, 20, 16)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run("degrade", "photos", "direct", "--recipe", "recipe.yaml", cwd=tmp_path)
    run("build", "recipe.yaml", cwd=tmp_path)
    assert tree(tmp_path / "direct") == tree(tmp_path / "out")
    recipe = json.loads((tmp_path / "other" / "corpus.json").read_text())["recipe"]
    assert recipe["degradation"] == {"median": {"size": 3}}
    drawn = pair_rows(tmp_path / "out")[0]["drawn"]
    assert {"0.one-of.branch", "1.noise.sigma", "1.noise.seed", "2.jpeg.quality"} <= set(drawn)
    assert "equal" in run("replay", "out", "001", "--source", "photos", cwd=tmp_path)
    assert "differs" not in run("replay", "out", "001", cwd=tmp_path)
    rewrite(tmp_path / "out" / "train" / "metadata.jsonl", lambda row: row.update(input_sha256="0"))
    assert "differs" in run("replay", "out", "001", code=1, cwd=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "output"),
    [
        (
            "noise: {sigma: ",
            "noise: {sigm: ",
            "line 4: key 'degradation.1.noise.sigm': unknown; did you mean 'sigma'",
        ),
        ("- noise:", "- nois:", "line 4: key 'degradation.1.nois': unknown; did you mean 'noise'"),
        ("[30, 95]", "[95, 30]", "degradation.2.jpeg.quality': the range is reversed"),
        ("[30, 95]", "[30, 101]", "degradation.2.jpeg.quality'"),
        ("sigma: [0.2, 3]", "sigma: {low: 3}", "degradation.0.one-of.0.gaussian.sigma'"),
        ("weight: 2", "weight: heavy", "degradation.0.one-of.0.weight'"),
        ("size: 3}", "size: 4}", "corpus.1.degrade.degradation.median.size': 4 is not odd"),
        ("{median: {size: 3}}", "[]", "corpus.1.degrade.degradation'"),
        ("degradation: {median", "degradatio: {median", "did you mean 'degradation'"),
    ],
)
def test_a_mistake_in_a_tree_is_one_line(old: str, new: str, output: str, tmp_path: Path) -> None:
    from img2img_data.cli.recipe import load_recipe

    (tmp_path / "recipe.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(UsageError) as error:
        load_recipe(tmp_path / "recipe.yaml")
    assert output in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        ({}, "--kind"),
        ({"kind": "nois"}, "did you mean 'noise'"),
        ({"kind": "noise", "set": ("sigm=3",)}, "'noise.sigm': unknown; did you mean 'sigma'"),
        ({"kind": "noise", "set": ("sigma=-3",)}, "greater than or equal to 0"),
        ({"kind": "noise", "set": ("sigma",)}, "not NAME=VALUE"),
        ({"kind": "noise", "set": ("sigma=1", "sigma=2")}, "given twice"),
        ({"kind": "noise", "degradation": {"jpeg": {}}}, "keep one"),
        ({"set": ("sigma=3",), "degradation": {"jpeg": {}}}, "--set"),
    ],
)
def test_a_wrong_option_is_one_line(
    settings: dict[str, Any], output: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as error:
        run_step("degrade", (images, tmp_path / "out"), settings, lambda done, total: None, print)
    assert output in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-3", 0.001),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("[1, 5, log]", [1, 5, "log"]),
    ],
)
def test_a_value_on_the_command_line_means_what_it_means_in_a_recipe(
    text: str, meant: object
) -> None:
    assert parse_assignments([f"sigma={text}"], OPTIONS) == {"sigma": meant}


@pytest.mark.parametrize(
    "text", ["[1", "{a: 1, a: 2}", "&a [*a]", "!!python/object:os.system x", "[" * 3000]
)
def test_a_value_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match="not YAML"):
        parse_assignments([f"sigma={text}"], OPTIONS)


def test_blur_offers_its_three_kinds_alone() -> None:
    output = run("blur", "--help")
    assert "gaussian, random-gaussian, resize" in " ".join(output.split()).replace(
        "random- gaussian", "random-gaussian"
    )
    assert "--sigma-max" in output
    assert "--length" not in output
    assert "degrade --kind motion" in run("blur", ".", "out", "--kind", "motion", code=2)


def test_all_degradations_are_listed_with_their_settings() -> None:
    output = run("degradations")
    assert [line.split()[0] for line in output.splitlines()] == list(
        dict.fromkeys(line.split()[0] for line in output.splitlines())
    )
    assert set(LIGHT) <= {line.split()[0] for line in output.splitlines()}
    assert "gray levels" in run("degradations", "noise")
    assert "did you mean 'motion'" in run("degradations", "motoin", code=2)


@pytest.mark.parametrize("recipe", ["real_esrgan", "bsrgan", "mixed"])
def test_the_presets_run(recipe: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2, 320, 320)
    path = Path(__file__).parents[3] / "recipes" / f"{recipe}.yaml"
    run("build", path, cwd=tmp_path)
    (out,) = (p.parent for p in tmp_path.rglob("corpus.json"))
    assert sum(len(p.read_text().splitlines()) for p in out.glob("*/metadata.jsonl")) == 2
    tiles = recipe != "mixed"
    key = "000_00000_00000" if tiles else "000"
    assert "equal" in run("replay", out, key, "--source", "photos", cwd=tmp_path)


def test_albumentations_is_loaded_only_where_it_is_used(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    code = (
        "import sys\nfrom pathlib import Path\nfrom img2img_data.cli.steps import run_step\n"
        "from img2img_data.degradations.registry import DEGRADATIONS\n"
        "from img2img_data.degradations.spec import to_spec\n"
        "for kind in set(DEGRADATIONS) - {'albumentations'}:\n"
        "    settings = {'degradation': to_spec(DEGRADATIONS[kind].example()), 'jobs': 1}\n"
        "    paths = (Path(sys.argv[1]), Path(sys.argv[2]) / kind)\n"
        "    run_step('degrade', paths, settings, print, print)\n"
        "print('LOADED', 'albumentations' in sys.modules, 'torch' in sys.modules)"
    )
    argv = [sys.executable, "-c", code, str(photos), str(tmp_path / "out")]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=os.environ)
    assert "LOADED False False" in done.stdout
