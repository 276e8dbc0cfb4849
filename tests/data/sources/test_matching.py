"""Matching of files: every matcher, with misleading names."""

from __future__ import annotations

import os
import random
import re
import shlex
import time
import unicodedata
from pathlib import Path

import pytest
from conftest import make_photo

from img2img_data.cli.steps import run_step
from img2img_data.core.errors import REASONS, UsageError
from img2img_data.core.jsonl import iter_rows
from img2img_data.images import io
from img2img_data.sources.matching import (
    MATCHERS,
    Matching,
    MatchSettings,
    better_match,
    describe_matching,
    match_paths,
)

OPTIONS: dict[str, dict[str, str]] = {
    "template": {"template_a": "{id}.jpg", "template_b": "{id}-sz1.jpg"},
    "regex": {"regex_a": r"(?P<id>.*?)(-sz1)?\.\w+"},
}


def match(first: list[str], second: list[str], how: str = "stem", **options: str) -> Matching:
    settings = MatchSettings.model_validate({"match": how, **OPTIONS.get(how, {}), **options})
    return match_paths([p.encode() for p in first], [p.encode() for p in second], settings)


def pairs(result: Matching) -> list[tuple[str, str]]:
    return [(a.decode(), b.decode()) for a, b in result.pairs]


def unmatched(result: Matching) -> dict[str, str]:
    return {"AB"[side] + "/" + path.decode(): reason for side, path, reason, _ in result.unmatched}


NAMES = [
    "a.jpg",
    "A.JPG",
    "a.png",
    "sub/a.jpg",
    "m-001-1.jpg",
    "Mp-001-1-sz1.jpg",
    "000_1_1.png",
    "f-005-01.jpg",
    "F2-005-01-sz1.jpg",
    "f1-005-01.jpg",
    "é.jpg",
    "e\u0301.jpg",
    "x-sz1.jpg",
    "x.jpg",
    "\udce9.jpg",
    ".jpg",
    "a b\n.jpg",
]


@pytest.mark.parametrize("how", MATCHERS)
@pytest.mark.parametrize("seed", range(25))
def test_every_file_is_in_one_pair_or_unmatched_in_any_order(how: str, seed: int) -> None:
    rng = random.Random(seed)
    sides = [
        [n.encode("utf-8", "surrogateescape") for n in rng.sample(NAMES, rng.randrange(len(NAMES)))]
        for _ in "AB"
    ]
    settings = MatchSettings.model_validate({"match": how, **OPTIONS.get(how, {})})
    found = match_paths(*sides, settings)
    for side in (0, 1):
        used = [p[side] for p in found.pairs] + [
            path for n, path, _, _ in found.unmatched if n == side
        ]
        assert sorted(used) == sorted(sides[side])
    assert all(reason in REASONS for _, _, reason, _ in found.unmatched)
    for side in sides:
        rng.shuffle(side)
    again = match_paths(*sides, settings)
    assert (again.pairs, sorted(again.unmatched)) == (found.pairs, sorted(found.unmatched))
    turned = match_paths(sides[1], sides[0], settings)
    if how != "template":
        assert sorted((b, a) for a, b in turned.pairs) == sorted(found.pairs)


OFFICIAL = {
    "CUHK, training, women": ("f-005-01.jpg", "F2-005-01-sz1.jpg"),
    "CUHK, training, men": ("m-008-01.jpg", "M2-008-01-sz1.jpg"),
    "CUHK, test": ("m-063-01.jpg", "m-063-01-sz1.jpg"),
    "CUHK, test, first series": ("f1-001-01.jpg", "f1-001-01-sz1.jpg"),
    "AR, men": ("m-002-1.bmp", "Mp-002-1-sz1.jpg"),
    "AR, women": ("w-001-1.bmp", "Wp-001-1-sz1.jpg"),
    "XM2VTS": ("000_1_1.ppm", "000_1_1_sz1.jpg"),
    "in folders": ("AR/m-002-1.bmp", "ar/Mp-002-1-sz1.jpg"),
}


@pytest.mark.parametrize("scheme", OFFICIAL)
def test_the_names_of_the_cuhk_database(scheme: str) -> None:
    photo, sketch = OFFICIAL[scheme]
    for upper in (str.upper, str.lower, str):
        assert pairs(match([upper(photo)], [sketch], "cuhk")) == [(upper(photo), sketch)]


def test_all_cuhk_names_at_once_and_different_people() -> None:
    photos, sketches = zip(*list(OFFICIAL.values())[:-1], strict=True)
    assert len(match(list(photos), list(sketches), "cuhk").pairs) == len(photos)
    assert not match(["f-005-01.jpg"], ["f1-005-01-sz1.jpg"], "cuhk").pairs
    assert not match(["m-002-1.jpg"], ["M2-002-01-sz1.jpg"], "cuhk").pairs
    assert not match(["w-001-1.jpg"], ["Mp-001-1-sz1.jpg"], "cuhk").pairs


def test_the_first_series_does_not_hide_the_second() -> None:
    found = match(
        ["f-005-01.jpg", "f1-005-01.jpg"], ["F2-005-01-sz1.jpg", "f1-005-01-sz1.jpg"], "cuhk"
    )
    assert pairs(found) == [
        ("f-005-01.jpg", "F2-005-01-sz1.jpg"),
        ("f1-005-01.jpg", "f1-005-01-sz1.jpg"),
    ]


@pytest.mark.parametrize(
    ("photo", "sketch"),
    [
        ("m-001-1.jpg", "M-001-1.PNG"),
        ("m-001/1.jpg", "m-001/1.png"),
        ("007.bmp", "007.jpg"),
        ("1/2/3.tif", "1/2/3.gif"),
    ],
)
def test_numbered_folders_pair_by_stem(photo: str, sketch: str) -> None:
    others = ["m-002/1.jpg", "008.jpg"]
    assert (photo, sketch) in pairs(match([photo, *others], [*others, sketch]))


def test_case_and_composition_count_where_names_are_ambiguous() -> None:
    nfc, nfd = unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "É.png")
    assert pairs(match([nfc], [nfd])) == [(nfc, nfd)]
    assert pairs(match(["x.jpg", "X.jpg"], ["X.png", "x.png"])) == [
        ("X.jpg", "X.png"),
        ("x.jpg", "x.png"),
    ]
    found = match(["x.jpg", "X.jpg"], ["x.png"])
    assert (pairs(found), unmatched(found)) == ([("x.jpg", "x.png")], {"A/X.jpg": "ambiguous-pair"})
    found = match(["x.jpg", "x.png"], ["x.gif"])
    assert not found.pairs
    assert set(unmatched(found).values()) == {"ambiguous-pair"}


@pytest.mark.parametrize("how", ["template", "regex"])
def test_ids_of_two_systems_are_equal(how: str) -> None:
    nfc, nfd = (unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD"))
    assert len(match([nfc + ".jpg"], [nfd + "-sz1.jpg"], how).pairs) == 1


def test_templates_with_two_ids_folders_and_letters_of_patterns() -> None:
    found = match(
        ["7/7.jpg", "7/8.jpg"],
        ["7+(x)/s.7.png"],
        "template",
        template_a="{id}/{id}.jpg",
        template_b="{id}+(x)/s.{id}.png",
    )
    assert pairs(found) == [("7/7.jpg", "7+(x)/s.7.png")]
    assert unmatched(found) == {"A/7/8.jpg": "unpaired"}


@pytest.mark.parametrize(
    ("how", "options", "names"),
    [
        ("template", {"template_a": "x.jpg"}, "--template-a"),
        ("template", {"template_b": "{id}_{name}.jpg"}, "{name}"),
        ("template", {"template_a": ""}, "--template-a"),
        ("regex", {"regex_a": "(.*)"}, "(?P<id>"),
        ("regex", {"regex_a": "(?P<id>["}, "--regex-a"),
        ("regex", {"regex_b": "(?P<id>a{99999999999})"}, "--regex-b"),
        ("csv", {}, "--csv"),
        ("csv", {"csv": "/nowhere/table.csv"}, "No such file"),
        ("csv", {"csv": "/"}, "folder"),
    ],
)
def test_wrong_settings_name_the_option(how: str, options: dict[str, str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        match(["a.jpg"], ["b.jpg"], how, **options)
    assert names in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"csv": "t.csv"}, {"template_a": "{id}.jpg"}, {"regex_b": "(?P<id>.)"}]
)
def test_an_option_of_another_match_is_rejected(options: dict[str, str]) -> None:
    option = f"--{next(iter(options)).replace('_', '-')}"
    with pytest.raises(ValueError, match=f"{option} needs --match"):
        MatchSettings(match="stem", **options)  # type: ignore[arg-type]


def test_an_endless_pattern_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("img2img_data.sources.matching.PATTERN_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(UsageError, match="aaaa"):
        match(["a.jpg", "a" * 60 + "!"], ["b.jpg"], "regex", regex_a="(?P<id>(a+)+)b")
    assert time.monotonic() - began < 10
    assert len(match(["a.jpg"], ["a.jpg"], "regex").pairs) == 1


def test_a_thousand_of_one_identity_stay_a_short_list() -> None:
    names = [f"{n}.jpg" for n in range(1000)]
    found = match(names, [f"b{n}.jpg" for n in range(1000)], "regex", regex_a=r"(?P<id>)b?\d+\.jpg")
    assert len(found.unmatched) == 2000
    assert max(len(detail) for *_, detail in found.unmatched) < 100
    assert "and 1,99" in found.unmatched[0][3]


TABLES = {
    "plain": "input,target\nx/1.jpg,p.png\n2.jpg,q.png\n",
    "of a spreadsheet": "\ufeffinput;target;note\r\nx/1.jpg;p.png;a, b\r\n2.jpg;q.png;\r\n",
    "of Windows": 'target\tinput\np.png\tx\\1.jpg\nq.png\t"2.jpg"\n',
    "with dots": "input,target\n./x/1.jpg,./p.png\n2.jpg,q.png\n",
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_other_programs(table: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLES[table], encoding="utf-8", newline="")
    found = match(
        ["x/1.jpg", "2.jpg", "3.jpg"], ["p.png", "q.png"], "csv", csv=str(tmp_path / "t.csv")
    )
    assert sorted(pairs(found)) == [("2.jpg", "q.png"), ("x/1.jpg", "p.png")]
    assert unmatched(found) == {"A/3.jpg": "unpaired"}


def test_a_table_with_paths_outside_and_damaged_rows(tmp_path: Path) -> None:
    lines = ["input,target", "../../etc/passwd,p.png", "/etc/passwd,q.png", "1.jpg", ","]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    found = match(["1.jpg", "2.jpg"], ["p.png", "q.png"], "csv", csv=str(tmp_path / "t.csv"))
    assert not found.pairs
    assert list(unmatched(found).values()).count("missing") >= 2
    (tmp_path / "t.csv").write_bytes(b"a,b\n1,2\n\x00")
    with pytest.raises(UsageError, match="columns input and target"):
        match(["1.jpg"], ["p.png"], "csv", csv=str(tmp_path / "t.csv"))


def test_a_table_may_name_a_file_again_and_tags(tmp_path: Path) -> None:
    lines = ["input,target,who,split", "1.jpg,p.png,x,a,extra", "2.jpg,p.png,,b", "1.jpg,q.png,y"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, lines[1]]))
    found = match(["1.jpg", "2.jpg"], ["p.png", "q.png"], "csv", csv=str(tmp_path / "t.csv"))
    tags = [{"who": "x", "split": "a"}, {"who": None, "split": "b"}, {"who": "y", "split": None}]
    assert list(found.tags.values()) == tags
    assert sorted(pairs(found)) == [("1.jpg", "p.png"), ("1.jpg", "q.png"), ("2.jpg", "p.png")]
    assert not found.unmatched
    assert "files in several pairs: 2" in next(describe_matching(found, False))


def test_a_table_may_hold_paths_that_contain_the_folder(tmp_path: Path) -> None:
    for name in ("A/x/1.png", "A/2.png", "A/3.png", "B/p.png", "B/q.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(io.encode(make_photo(1), "png"))
    there, table, paths = tmp_path / "A", tmp_path / "t.csv", [tmp_path / n for n in "AB"]
    relative = os.path.relpath(tmp_path / "B" / "q.png")
    lines = ["input,target", f"{there}/x/1.png,{tmp_path}/B/p.png", f"2.png,{relative}"]
    table.write_text("\n".join(lines))
    settings = {"match": "csv", "csv": str(table), "allow_unpaired": True, "jobs": 1}
    report, code = run_step("combine", [*paths, tmp_path / "out"], settings, lambda *_: None, print)
    assert (code, report.kept["train"], report.unmatched) == (0, 2, 1)
    table.write_text("\n".join([*lines, "/nowhere/3.png,p.png", f"{tmp_path}/A2/3.png,p.png"]))
    matching = match_paths(
        [b"x/1.png", b"2.png", b"3.png"],
        [b"p.png", b"q.png"],
        MatchSettings(match="csv", csv=str(table)),
        paths,
    )
    assert len(matching.pairs) == 2
    details = [detail for _, _, reason, detail in matching.unmatched if reason == "missing"]
    assert len(details) == 2
    assert all("an absolute path" in detail for detail in details)


def test_a_long_table_is_shown_by_its_head() -> None:
    names = [f"{n:05d}.jpg" for n in range(10_000)]
    found = match(names, names[:-30])
    lines = list(describe_matching(found, with_pairs=True, limit=20))
    assert lines[0] == "9,970 pairs, 30 files without their other half"
    assert "... and 9,950 more rows 'pair'; --rows 0 shows all" in lines
    assert len(lines) == 43
    assert len(list(describe_matching(found, with_pairs=True))) == 10_001
    assert len(list(describe_matching(found, with_pairs=False, limit=20))) == 21


def test_the_better_matcher_is_suggested(tmp_path: Path) -> None:
    photos, sketches = zip(*list(OFFICIAL.values())[:2], strict=True)
    for side, names in (("A", photos), ("B", sketches)):
        for number, name in enumerate(names):
            (tmp_path / side).mkdir(exist_ok=True)
            (tmp_path / side / name).write_bytes(io.encode(make_photo(number), "png"))
    sides = [[n.encode() for n in names] for names in (photos, sketches)]
    assert better_match(sides[0], sides[1]) == ("--match cuhk", 2)
    paths = [tmp_path / n for n in ("A", "B", "out")]
    with pytest.raises(UsageError, match="--match cuhk would give 2 pairs"):
        run_step("combine", paths, {}, lambda *_: None, print)
    _, code = run_step("combine", paths, {"match": "cuhk", "jobs": 1}, lambda *_: None, print)
    assert code == 0


NUMBERS = range(1, 13)
DIFFERENT: dict[str, tuple[list[str], list[str]]] = {
    "zero padding": ([f"{n}.jpg" for n in NUMBERS], [f"{n:03d}.png" for n in NUMBERS]),
    "suffixes": ([f"{n}_A.jpg" for n in NUMBERS], [f"{n}_B.png" for n in NUMBERS]),
    "suffixes of words": (["ann_A.jpg", "bob_A.jpg"], ["ann_B.jpg", "bob_B.jpg"]),
    "a suffix on one side": ([f"{n}.jpg" for n in NUMBERS], [f"{n}-mask.png" for n in NUMBERS]),
    "a folder on one side": ([f"{n}.jpg" for n in NUMBERS], [f"images/{n}.jpg" for n in NUMBERS]),
    "a folder and padding": ([f"{n}.jpg" for n in NUMBERS], [f"x/{n:02d}.jpg" for n in NUMBERS]),
    "prefixes": ([f"photo_{n}.jpg" for n in NUMBERS], [f"map_{n:02d}.jpg" for n in NUMBERS]),
    "prefixes of words": ([f"in-{n}.jpg" for n in ("ann", "bob")], ["out-ann.jpg", "out-bob.jpg"]),
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_the_hint_names_the_options_that_pair_all(difference: str, tmp_path: Path) -> None:
    sides, paths = DIFFERENT[difference], [tmp_path / n for n in ("A", "B", "out")]
    for folder, names in zip(paths, sides, strict=False):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(io.encode(make_photo(0), "png"))
    with pytest.raises(UsageError) as caught:
        run_step("combine", paths, {}, lambda *_: None, print)
    hint = str(caught.value).rpartition("; ")[2]
    options, count = hint.removesuffix(" pairs").split(" would give ")
    assert int(count) == len(sides[0])
    words = shlex.split(options)
    settings = {o[2:].replace("-", "_"): v for o, v in zip(words[::2], words[1::2], strict=True)}
    report, code = run_step("combine", paths, {**settings, "jobs": 1}, lambda *_: None, print)
    assert (code, report.kept["train"]) == (0, len(sides[0]))
    for row in iter_rows(tmp_path / "out" / "train" / "metadata.jsonl"):
        # Each name has one part, a number or a word, that identifies it.
        first, second = (
            re.findall(r"[1-9]\d*|ann|bob", str(row[c])) for c in ("source", "target_source")
        )
        assert first == second


def test_names_without_anything_in_common_get_no_hint() -> None:
    assert better_match([b"a1.jpg", b"a2.jpg"], [b"b7.jpg", b"b8.jpg"])[1] == 0
    long = [b"_" * 240 + b"%d!" % n for n in range(50)]
    assert better_match(long, [b"-" + name for name in long])[1] == 0
