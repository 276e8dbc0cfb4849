"""Groups stay in one split, shares hold, old images stay; tags come from lists beside images."""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from command_line import rows, run, tree
from conftest import make_photo, write_photos

from img2img_data.core.errors import UsageError
from img2img_data.corpus.format import split_of
from img2img_data.images import io
from img2img_data.runner.plan import (
    check_tag,
    group_of,
    parse_split,
    stratified_splits,
    stratum_of,
    tag_in,
)
from img2img_data.sources.folder import MAX_TAGS, find_tags, tags_of

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


# ------------------------------------------------------------------------------------------ groups
@pytest.mark.parametrize(("rule", "tag"), [
    (None, None), ("folder", None), ("person", "person"), ("tag:person", "person"),
    ("tag:folder", "folder"), ("tag:full name", "full name"), ("^[^_]*", None), (r"\d+", None),
    ("f-name_2", "f-name_2"),
])  # fmt: skip
def test_a_plain_word_names_a_tag(rule: str | None, tag: str | None) -> None:
    assert tag_in(rule) == tag


@pytest.mark.parametrize(("rule", "group"), [
    (None, b"a/b/7_x.jpg"), ("folder", b"a/b"), ("person", b"Ann"), ("tag:age", b"7"),
    ("^[^_]*", b"7"), ("_(.)", b"x"), ("^none", b"a/b/7_x.jpg"), ("tag:unknown", b"a/b/7_x.jpg"),
    ("nobody", b"a/b/7_x.jpg"),
])  # fmt: skip
def test_every_rule_of_groups(rule: str | None, group: bytes) -> None:
    tags = {"person": "Ann", "age": 7, "nobody": None}
    assert group_of(b"a/b/7_x.jpg", tags, rule) == group


def test_strata_are_folders_or_tags() -> None:
    assert stratum_of(b"a/b/x.jpg", {}, "folder") == "a/b"
    assert stratum_of(b"a/b/x.jpg", {"gender": "male"}, "gender") == "male"
    assert stratum_of(b"a/b/x.jpg", {"old": True}, "tag:old") == "true"
    assert stratum_of(b"a/b/x.jpg", {"gender": None}, "gender") == ""


def test_an_unknown_tag_names_the_known_ones() -> None:
    check_tag("person", "--group-by", {"person"})
    check_tag("folder", "--group-by", ())
    with pytest.raises(UsageError, match="did you mean 'person'"):
        check_tag("persn", "--group-by", {"person", "gender"})
    with pytest.raises(UsageError, match="have no tags"):
        check_tag("person", "--group-by", ())


# ------------------------------------------------------------------------------------------ shares
def split_all(
    members: list[tuple[bytes, str]], shares: dict[str, float], seed: int = 0
) -> list[str]:
    return [list(shares)[at] for at in stratified_splits(members, shares.values(), seed)]


def test_whole_shares_hold_exactly_in_each_stratum() -> None:
    members = [
        (f"{s}{i}".encode(), s) for s, n in (("a", 100), ("b", 30), ("c", 10)) for i in range(n)
    ]
    counts = Counter(zip((s for _, s in members), split_all(members, SHARES), strict=True))
    for stratum, size in (("a", 100), ("b", 30), ("c", 10)):
        for name, share in SHARES.items():
            assert counts[stratum, name] == pytest.approx(size * share), (stratum, name)


@pytest.mark.parametrize("seed", range(40))
def test_shares_hold_to_one_group(seed: int) -> None:
    rng = random.Random(seed)
    sizes = [(rng.randint(1, 9), rng.choice("abc")) for _ in range(rng.randint(1, 60))]
    cuts = [rng.randint(1, 9) for _ in range(rng.randint(2, 4))]
    shares = {str(n): c / sum(cuts) for n, c in enumerate(cuts)}
    members = [(str(n).encode(), s) for n, (size, s) in enumerate(sizes) for _ in range(size)]
    splits = split_all(members, shares, seed)
    for stratum in {s for _, s in members}:
        counts = Counter(k for (_, s), k in zip(members, splits, strict=True) if s == stratum)
        largest = max(size for size, s in sizes if s == stratum)
        for name, share in shares.items():
            assert abs(counts[name] - share * counts.total()) <= largest + 1e-9


def test_strata_of_one_image_still_fill_every_split() -> None:
    members = [(f"g{i}".encode(), f"s{i}") for i in range(3000)]
    counts = Counter(split_all(members, SHARES))
    assert all(abs(counts[name] / 3000 - share) < 0.03 for name, share in SHARES.items())


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_torn_and_the_order_does_not_count(seed: int) -> None:
    rng = random.Random(seed)
    members = [(str(rng.randrange(40)).encode(), rng.choice("ab")) for _ in range(300)]
    splits = split_all(members, SHARES, seed)
    seen = defaultdict(set)
    for (group, _), split in zip(members, splits, strict=True):
        seen[group].add(split)
    assert all(len(s) == 1 for s in seen.values())
    order = list(range(300))
    rng.shuffle(order)
    assert split_all([members[i] for i in order], SHARES, seed) == [splits[i] for i in order]


def test_a_group_counts_where_most_of_it_is() -> None:
    members = [
        (b"both", "b"),
        (b"both", "b"),
        (b"both", "a"),
        *((f"a{i}".encode(), "a") for i in range(9)),
    ]
    both = [m for m in members if m[0] == b"both"]
    splits = split_all([*both, *((f"b{i}".encode(), "b") for i in range(7))], {"x": 0.5, "y": 0.5})
    assert Counter(splits)["x"] == pytest.approx(5, abs=2)
    assert len(set(split_all(members, {"x": 0.5, "y": 0.5})[:3])) == 1


@pytest.mark.parametrize("jobs", [1, 2])
def test_pairs_that_share_a_file_have_one_split_and_their_own_keys(
    jobs: int, tmp_path: Path
) -> None:
    """Bursts, several takes of a photo, and both at once."""
    for side in "AB":
        write_photos(tmp_path / side, 12)
    names = [p.name for p in sorted((tmp_path / "A").iterdir())]
    rng = random.Random(0)
    chosen = [(names[rng.randrange(12)], names[rng.randrange(12)]) for _ in range(9)]
    lines = [",".join(pair) for pair in sorted(set(chosen))]
    (tmp_path / "t.csv").write_text("\n".join(["input,target", *lines]))
    words = ["--match", "csv", "--csv", tmp_path / "t.csv", "--split", "a=0.5,b=0.5"]
    run("combine", tmp_path / "A", tmp_path / "B", tmp_path / "c", *words, "--allow-unpaired",
        "--jobs", jobs, "--size", "16", "--fit", "crop", "--max-bad", "1")  # fmt: skip
    splits: dict[tuple[str, str], set[str]] = {}
    found = [r | {"split": s} for s in "ab" for r in rows(tmp_path / f"c/{s}/metadata.jsonl")]
    for row in found:
        for side, column in (("A", "source"), ("B", "target_source")):
            splits.setdefault((side, row[column]), set()).add(row["split"])
    assert len({row["key"] for row in found}) == len(found) == len(lines)
    assert all(len(names) == 1 for names in splits.values())
    assert any("group" in row["tags"] for row in found)


def test_a_tag_that_tears_pairs_of_one_file_is_refused(tmp_path: Path) -> None:
    for side in "AB":
        write_photos(tmp_path / side, 2)
    name = sorted(p.name for p in (tmp_path / "A").iterdir())
    lines = ["input,target,who", f"{name[0]},{name[0]},x", f"{name[0]},{name[1]},y"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    words = ["combine", tmp_path / "A", tmp_path / "B", tmp_path / "c", "--match", "csv"]
    words += ["--csv", tmp_path / "t.csv", "--group-by", "who", "--allow-unpaired"]
    assert "have different values" in run(*words, code=2)


def test_folders_of_splits_that_are_joined_are_noted(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_photos(tmp_path / "in" / name, 2, 20, 20)
    joined = run("blur", tmp_path / "in", tmp_path / "a")
    assert "note: all images are in split 'train'; --split folder keeps" in joined
    assert "note: " not in run("blur", tmp_path / "in", tmp_path / "b", "--split", "folder")
    assert "note: " not in run("blur", tmp_path / "in" / "train", tmp_path / "c")


def test_folders_and_tags_name_the_splits(tmp_path: Path) -> None:
    for folder, count in (("train", 3), ("test/deep", 2), ("dev", 1)):
        write_photos(tmp_path / "p" / folder, count)
    write_photos(tmp_path / "p", 1)
    out = run("blur", tmp_path / "p", tmp_path / "a", "--split", "folder", "--size", "16",
              "--max-bad", "1")  # fmt: skip
    assert "no-split" in out
    assert {s.name for s in (tmp_path / "a").iterdir() if s.is_dir()} == {"train", "test", "dev"}
    assert len(rows(tmp_path / "a/test/metadata.jsonl")) == 2
    lists = [{"file_name": p.relative_to(tmp_path / "p").as_posix(), "split": "val"}
             for p in (tmp_path / "p").rglob("*.*")]  # fmt: skip
    (tmp_path / "p/metadata.jsonl").write_text("\n".join(map(json.dumps, lists)))
    run("blur", tmp_path / "p", tmp_path / "b", "--size", "16")
    assert len(rows(tmp_path / "b/val/metadata.jsonl")) == 7
    run("blur", tmp_path / "p", tmp_path / "c", "--size", "16", "--split", "x=1")
    assert len(rows(tmp_path / "c/x/metadata.jsonl")) == 7


def test_splits_without_train_are_noted_and_a_tag_that_is_unknown_is_an_error(
    tmp_path: Path,
) -> None:
    photos = write_photos(tmp_path / "in" / "odd", 2, 20, 20)
    note = "note: no image is in split 'train'; 'img2img-train --split NAME' trains on another one"
    assert note in run("blur", tmp_path / "in", tmp_path / "a", "--split", "folder")
    assert note not in run("blur", tmp_path / "in", tmp_path / "b", "--split", "test=1")
    error = run("blur", photos, tmp_path / "c", "--split", "tag:part", code=2)
    assert "option '--split tag:part': the images have no tags" in error
    lists = [{"file_name": path.name, "split": "x"} for path in photos.iterdir()]
    (photos / "metadata.jsonl").write_text("\n".join(map(json.dumps, lists)))
    error = run("blur", photos, tmp_path / "c", "--split", "tag:splt", code=2)
    assert "option '--split tag:splt': no image has this tag; did you mean 'split'?" in error
    assert not (tmp_path / "c").exists()
    assert note in run("blur", photos, tmp_path / "d")


def test_an_empty_split_is_named_with_what_fills_it(tmp_path: Path) -> None:
    words = ["--split", "train=0.8,val=0.1,test=0.1,none=0", "--size", "8", "--jobs", 1]
    photos, seen = write_photos(tmp_path / "photos", 10, 20, 20), set()
    for seed in range(8):
        output = run("blur", photos, tmp_path / f"{seed}", *words, "--seed", seed)
        kept = json.loads((tmp_path / f"{seed}/corpus.json").read_text())["counts"]["kept"]
        missing = " or ".join(f"'{name}'" for name in SHARES if name not in kept)
        warning = f"warning: no image is in split {missing}; another --seed"
        assert (warning in output) is ("warning" in output) is bool(missing)
        assert warning not in run("blur", photos, tmp_path / f"s{seed}", *words,
                                  "--seed", seed, "--shard", "1/2")  # fmt: skip
        seen.add(missing)
    assert {"", "'val' or 'test'"} <= seen
    assert "warning" not in run("blur", photos, tmp_path / "b", *words, "--stratify", "folder")


def test_images_added_later_move_none_without_strata(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 30, 16, 16)
    options = ["--split", "train=0.6,test=0.4", "--seed", "3"]
    run("blur", photos, tmp_path / "before", *options)
    for number in range(30, 60):
        (photos / f"{number:03d}.png").write_bytes(io.encode(make_photo(number, 16, 16), "png"))
    run("blur", photos, tmp_path / "after", *options)
    where = {
        name: {
            str(r["key"]): s
            for s in ("train", "test")
            for r in rows(tmp_path / name / s / "metadata.jsonl")
        }
        for name in ("before", "after")
    }
    assert where["before"].items() <= where["after"].items()
    assert len(where["after"]) == 60
    shares = {"train": 0.6, "test": 0.4}
    assert all(
        split_of(f"{key}.jpg".encode(), shares, 3) == s for key, s in where["before"].items()
    )


# -------------------------------------------------------------------------------------------- tags
def write_tagged(folder: Path, count: int, people: int) -> Path:
    write_photos(folder, count, 16, 16)
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(count):
            tags = {"person": f"p{number % people}", "gender": "male" if number % 3 else "female"}
            file.write(json.dumps({"file_name": f"{number:03d}.jpg", **tags}) + "\n")
    return folder


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_corpus_keeps_tags_groups_and_shares(jobs: int, tmp_path: Path) -> None:
    photos = write_tagged(tmp_path / "photos", 60, 60)
    split = [
        "--split",
        "train=0.8,val=0.1,test=0.1",
        "--group-by",
        "person",
        "--stratify",
        "gender",
    ]
    run("blur", photos, tmp_path / "out", *split, "--jobs", jobs)
    counts = Counter()
    for name in SHARES:
        for row in rows(tmp_path / "out" / name / "metadata.jsonl"):
            number = int(str(row["key"]))
            gender = "male" if number % 3 else "female"
            assert row["tags"] == {"person": f"p{number}", "gender": gender, "group": f"p{number}"}
            counts[gender, name] += 1
    assert counts == {("female", "train"): 16, ("female", "val"): 2, ("female", "test"): 2,
                      ("male", "train"): 32, ("male", "val"): 4, ("male", "test"): 4}  # fmt: skip
    if jobs == 2:
        run("blur", photos, tmp_path / "one", *split, "--jobs", 1)
        assert tree(tmp_path / "one") == tree(tmp_path / "out")


def test_one_person_stays_in_one_split(tmp_path: Path) -> None:
    photos = write_tagged(tmp_path / "photos", 40, 7)
    for rule in ("person", "tag:person"):
        out = tmp_path / rule.replace(":", "-")
        run(
            "blur",
            photos,
            out,
            "--split",
            "train=0.5,test=0.5",
            "--group-by",
            rule,
            "--stratify",
            "gender",
        )
        sides = [
            {r["tags"]["person"] for r in rows(out / s / "metadata.jsonl")}
            for s in ("train", "test")
        ]
        assert not sides[0] & sides[1]
        assert "no problems" in run("verify", out)


def test_a_tag_called_group_is_not_taken_for_the_groups_of_the_splits(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 12, 16, 16)
    lines = [json.dumps({"file_name": f"{n:03d}.jpg", "group": "all", "who": n}) for n in range(12)]
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    run("blur", photos, tmp_path / "out", "--split", "train=0.5,test=0.5", "--jobs", 1)
    assert "no problems" in run("verify", tmp_path / "out")
    assert all(
        list(r["tags"]) == ["who"] for r in rows(tmp_path / "out" / "train" / "metadata.jsonl")
    )
    run(
        "blur",
        photos,
        tmp_path / "by",
        "--split",
        "train=0.5,test=0.5",
        "--group-by",
        "group",
        "--jobs",
        1,
    )
    (only,) = (tmp_path / "by").glob("*/metadata.jsonl")
    assert [r["tags"]["group"] for r in rows(only)] == ["all"] * 12


def test_unpaired_domains_are_strata_of_their_own(tmp_path: Path) -> None:
    a, b = (
        write_photos(tmp_path / "a", 20, 16, 16),
        write_photos(tmp_path / "b", 10, 16, 16, ".png"),
    )
    run("unpaired", a, b, tmp_path / "out", "--split", "train=0.8,test=0.2", "--stratify", "folder")
    found = {s: rows(tmp_path / "out" / s / "metadata.jsonl") for s in ("train", "test")}
    counts = {s: Counter(r["domain"] for r in part) for s, part in found.items()}
    assert counts == {"train": {"A": 16, "B": 8}, "test": {"A": 4, "B": 2}}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--group-by", "persn"], "did you mean 'person'"),
        (["--stratify", "tag:persons", "--split", "a=0.5,b=0.5"], "did you mean 'person'"),
        (["--stratify", "gender"], "--split"),
        (["--stratify", "^x", "--split", "a=0.5,b=0.5"], "--stratify"),
        (["--group-by", "("], "--group-by"),
    ],
)
def test_wrong_rules_are_one_line(options: list[str], names: str, tmp_path: Path) -> None:
    photos = write_tagged(tmp_path / "photos", 4, 2)
    output = run("blur", photos, tmp_path / "out", *options, code=2)
    assert names in output
    assert len(output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", ["=nan", "=inf", "=-0.5", "=1.5", "", "=", "=half"])
def test_a_wrong_share_is_named(share: str) -> None:
    with pytest.raises(ValueError, match=rf"'train{share}' is not NAME=SHARE"):
        parse_split(f"train{share},val=0.5")


def test_select_passes_tags_on_and_follows_their_lists(tmp_path: Path) -> None:
    photos = write_tagged(tmp_path / "photos", 8, 4)
    run("select", photos, tmp_path / "chosen", "--jobs", 1)
    run("blur", tmp_path / "chosen", tmp_path / "out", "--jobs", 1)
    row = rows(tmp_path / "out" / "train" / "metadata.jsonl")[5]
    assert row["tags"] == {"person": "p1", "gender": "male"}
    (photos / "metadata.jsonl").write_text('{"file_name": "000.jpg", "person": "other"}\n')
    assert "8 with a new key, split or tags" in run("select", photos, tmp_path / "chosen")
    assert "8 with a new key, split or tags" in run("blur", tmp_path / "chosen", tmp_path / "out")
    tags = [row["tags"] for row in rows(tmp_path / "out" / "train" / "metadata.jsonl")]
    assert tags == [{"person": "other"}, *[{}] * 7]


# ------------------------------------------------------------------------------------ lists of tags
def tags_in(folder: Path, *paths: str) -> list[dict[str, object]]:
    found = find_tags(os.fsencode(folder), [os.fsencode(p) for p in paths])
    assert found is not None
    return [dict(found.get(os.fsencode(p))) for p in paths]


def test_lists_of_both_kinds_and_the_nearest_one_counts(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "metadata.csv").write_text(
        '\ufefffile_name,who,note\nx.jpg,Ann,"two\nlines, one cell"\na/b/y.jpg,far,\n./z.jpg,"",1\n'
    )
    (tmp_path / "a" / "b" / "metadata.jsonl").write_text(
        '{"file_name": "y.jpg", "who": "near"}\n\n'
    )
    assert tags_in(tmp_path, "x.jpg", "a/b/y.jpg", "z.jpg", "none.jpg") == [
        {"who": "Ann", "note": "two\nlines, one cell"},
        {"who": "near"},
        {"who": None, "note": "1"},
        {},
    ]


def test_no_list_is_none(tmp_path: Path) -> None:
    assert find_tags(os.fsencode(tmp_path), [b"a/x.jpg", b"y.jpg"]) is None


HOSTILE = {
    "text": b"hello\n",
    "nothing": b"",
    "half": b'{"file_name": "x.jpg", "who": ',
    "list": b"[1, 2]\n",
    "deep": b'{"file_name": "x.jpg", "who": ' + b"[" * 100_000 + b"\n",
    "long line": b'{"file_name": "x.jpg", "who": "' + b"a" * (2 << 20) + b'"}\n',
    "big number": b'{"file_name": "x.jpg", "who": ' + b"9" * 10_000 + b"}\n",
    "not utf-8": b'{"file_name": "x.jpg", "who": "\xff"}\n',
    "names": b'{"file_name": ["x.jpg"]}\n{"file_name": "../x.jpg"}\n{"file_name": "/etc/passwd"}\n',
    "zeros": bytes(5000),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_hostile_lists_give_no_tags_and_no_crash(name: str, kind: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2, 16, 16)
    (tmp_path / "photos" / f"metadata.{kind}").write_bytes(HOSTILE[name])
    run("blur", tmp_path / "photos", tmp_path / "out", "--jobs", 1)
    assert all(r["tags"] == {} for r in rows(tmp_path / "out" / "train" / "metadata.jsonl"))


def test_hostile_values_are_left_out() -> None:
    row = json.loads(
        '{"file_name": "x", "a": NaN, "b": [1], "c": {"d": 1}, "e": 1e999, '
        '"f": "\\ud800", "g": true}'
    )
    kept = tags_of(
        {**row, "h": 2**70, "i": "x" * 5000, "": 1, "input_file_name": "y", "j": -3, "k": None}
    )
    assert kept == {"f": "\ufffd", "g": True, "j": -3, "k": None}
    json.dumps(kept, ensure_ascii=False).encode()
    assert len(tags_of({str(i): i for i in range(1000)})) == MAX_TAGS
    assert tags_of({"tags": {"a": 1}, "b": 2}) == {"a": 1}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_list_that_is_not_a_file_is_skipped_with_a_warning(kind: str, tmp_path: Path) -> None:
    photos, secret = write_photos(tmp_path / "photos", 2, 16, 16), tmp_path / "secret.jsonl"
    secret.write_text('{"file_name": "000.jpg", "who": "secret"}\n')
    path = photos / "metadata.jsonl"
    {
        "link": lambda: path.symlink_to(secret),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    assert "metadata.jsonl' was not read" in run("blur", photos, tmp_path / "out", "--jobs", 1)
    assert all(r["tags"] == {} for r in rows(tmp_path / "out" / "train" / "metadata.jsonl"))


def test_thirty_thousand_rows_stay_small(tmp_path: Path) -> None:
    import tracemalloc

    names = [f"{i:06d}.jpg" for i in range(30_000)]
    with (tmp_path / "metadata.jsonl").open("w") as file:
        file.writelines(json.dumps({"file_name": n, "who": n[:3]}) + "\n" for n in names)
    paths = [n.encode() for n in names]
    tracemalloc.start()
    found = find_tags(os.fsencode(tmp_path), paths)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.get(b"007123.jpg") == {"who": "007"}
    assert kept < 30 * 30_000
    assert peak < 80 * 30_000


# -------------------------------------------------------------------------------------- real data
def test_tags_travel_from_wiki_to_blur(wiki: tuple[Path, str], tmp_path: Path) -> None:
    faces, _ = wiki
    known = {str(r["file_name"]): r["tags"] for r in rows(faces / "male" / "metadata.jsonl")}
    split = [
        "--split",
        "train=0.8,val=0.1,test=0.1",
        "--group-by",
        "person",
        "--stratify",
        "gender",
    ]
    run("blur", faces, tmp_path / "out", "--size", 16, *split, "--jobs", 2)
    people, counts = defaultdict(set), Counter()
    for name in SHARES:
        for row in rows(tmp_path / "out" / name / "metadata.jsonl"):
            tags = dict(row["tags"])  # type: ignore[call-overload]
            people[tags["group"]].add(name)
            counts[tags["gender"], name] += 1
            side, _, file = str(row["source"]).partition("/")
            assert tags.pop("group") == tags["person"]
            assert side == tags["gender"]
            assert side == "female" or tags == known[file]
    assert all(len(splits) == 1 for splits in people.values())
    for gender in ("male", "female"):
        total = sum(counts[gender, s] for s in SHARES)
        largest = 2  # no person has more than a few images
        for name, share in SHARES.items():
            assert abs(counts[gender, name] - share * total) <= largest
