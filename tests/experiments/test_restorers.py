"""The table of restorers, at a tiny scale."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import restorers
from conftest import write_photos
from restorers import Row, commands, measure

from img2img_data.core.errors import UsageError
from img2img_train.cli.main import main

RECIPE = """\
corpus:
  - blur: {source: photos, out: corpora/male-gaussian, size: 16, sigma: 2,
      split: 'train=0.5,test=0.5'}
  - blur: {source: photos, out: corpora/others, size: 16, sigma: 2, split: test=1}
"""
TINY = "--loss l1 --net unet --width 4 --batch 4 --epochs 2"


def test_the_rows_have_commands_and_folders_of_their_own() -> None:
    done = commands(Path("data"), list(restorers.ROWS), 2, 1)
    runs = [one.run for one in done if one.run is not None]
    assert len(set(runs)) == len(runs) == 2 * len(restorers.ROWS)
    with pytest.raises(UsageError, match="did you mean 'default'"):
        restorers.command.main(["--only", "defaults"], standalone_mode=False)


@pytest.mark.slow
def test_a_table_is_made_in_several_sittings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "photos", 16)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    monkeypatch.setattr(restorers, "RECIPES", tmp_path)
    monkeypatch.setattr(restorers, "BUILT", ["tiny"])
    monkeypatch.setattr(restorers, "TESTS", {"men": restorers.MEN, "others": "corpora/others"})
    rows = {"one": Row("The one", TINY), "other": Row("The other", TINY)}
    monkeypatch.setattr(restorers, "ROWS", rows)
    words = ["--data", tmp_path, "--out", tmp_path / "results", "--seeds", 1, "--only", "one"]
    main([str(word) for word in words], restorers.command, "restorers")
    page = json.loads((tmp_path / "results/restorers.json").read_text())
    table = (tmp_path / "results/restorers.md").read_text()
    assert table in capfd.readouterr().out
    first, *_, last = page["rows"]
    assert (first["title"], last["title"]) == ("input", "The one")
    assert last["parameters"] > 0
    assert last["cpu_seconds"][0] > 0
    # Filters of a corpus with one split are fitted on the men.
    assert {"unsharp", "wiener"} <= {row["title"] for row in page["rows"]}
    assert all(row["scores"].keys() == {"men", "others"} for row in page["rows"])
    assert "--net unet --width 4 --batch 4 --epochs 2 --seed 0" in table
    # An unfinished or unknown run is not in the table, whatever was asked for.
    found = measure(tmp_path, 3, 1)
    assert [(row.title, row.seeds) for row in found if row.seeds] == [("The one", [0])]


def test_a_row_shows_how_far_it_is_past_the_original() -> None:
    def row(title: str, *tests: str, psnr: float = 20.0) -> restorers.TableRow:
        scores = {"psnr": [psnr, psnr + 1], "ssim": [0.5, 0.5]}
        return restorers.TableRow(title, dict.fromkeys(tests, scores), 9, [0, 1], [3.0, 5.0])

    first, *others = restorers.TESTS
    rows = [row("bicubic", others[-1]), row(restorers.ORIGINAL, first, *others)]
    text = restorers.markdown([*rows, row("New", first, *others, psnr=23.0)], "m", 1)
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert {len(line) for line in lines} == {7 + len(others)}
    assert [line[5] for line in lines] == ["over the original", "", "+0.00", "+3.00"]
    assert lines[-1][:5] == ["| New", "2", "9", "4 ± 1", "23.50 ± 0.50"]
