"""A plan is sorted, whole and small; the same whatever the order in which sources were found."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from img2img_data.corpus.format import UniqueKeys, key_of
from img2img_data.runner import plan as planning
from img2img_data.runner.plan import ImageTask, Plan, plan_folders, plan_pairs
from img2img_data.sources.folder import Item
from img2img_data.sources.matching import Matching

PARTS = [
    b"a",
    b"A",
    b"b",
    b"-",
    b" ",
    b".",
    b"/",
    b"1",
    "é".encode(),
    "e\u0301".encode(),
    b"con",
    b"%",
]
ENDS = [b".jpg", b".png", b".JPG", b".jpg.png"]


def odd_items(rng: random.Random, count: int) -> list[Item]:
    paths = {
        b"".join(rng.choices(PARTS, k=rng.randint(1, 4))) + rng.choice(ENDS) for _ in range(count)
    }
    return [
        Item(p, {"n": n} if n % 3 == 0 else {}, ("link", "why") if n % 5 == 0 else None)
        for n, p in enumerate(sorted(paths))
    ]


def tasks(plan: Plan) -> list[ImageTask]:
    return [plan.task(index) for index in range(len(plan))]


@pytest.mark.parametrize("run", [3, 1000])
def test_every_source_is_planned_once_sorted_by_its_key(
    run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_SORTED_AT_ONCE", run)
    rng = random.Random(1)
    for _ in range(20):
        items = odd_items(rng, 40)
        keys = UniqueKeys(i.path for i in items)
        expected = sorted((keys[i.path], i.path, dict(i.tags), i.rejected) for i in items)
        digests = set()
        for _ in range(2):
            rng.shuffle(items)
            plan = plan_folders([Path("in")], "paired", [items])
            assert [
                (t.key, t.sources[0], dict(t.tags), t.rejected) for t in tasks(plan)
            ] == expected
            digests.add(plan.names_digest())
        assert len(digests) == 1


def test_pairs_stay_together_and_unmatched_files_keep_their_side() -> None:
    unmatched = [
        (1, b"3.png", "unpaired", "the other half is missing"),
        (0, b"1.png", "ambiguous-pair", "also"),
    ]
    plan = plan_pairs(
        [Path("a"), Path("b")], Matching([(b"2.jpg", b"x.jpg"), (b"1.jpg", b"y.jpg")], unmatched)
    )
    assert [(t.key, t.root, t.sources, t.rejected) for t in tasks(plan)] == [
        ("1.jpg", 0, (b"1.jpg", b"y.jpg"), None),
        ("1.png", 0, (b"1.png",), ("ambiguous-pair", "also")),
        ("2", 0, (b"2.jpg", b"x.jpg"), None),
        ("3", 1, (b"3.png",), ("unpaired", "the other half is missing")),
    ]


def test_two_domains_keep_their_own_keys_and_order() -> None:
    items = [[Item(b"b.jpg"), Item(b"a.jpg")], [Item(b"a.png")]]
    plan = plan_folders([Path("a"), Path("b")], "unpaired", items)
    assert [(t.root, t.key) for t in tasks(plan)] == [(0, "a"), (0, "b"), (1, "a")]


def plans() -> dict[str, Plan]:
    items, others = odd_items(random.Random(2), 60), odd_items(random.Random(3), 40)
    paths = [item.path for item in items]
    pairs = list(zip(paths[:20], paths[20:40], strict=True))
    unmatched = [(n % 2, path, "unpaired", "") for n, path in enumerate(paths[40:])]
    roots = [Path("a"), Path("b")]
    return {
        "folder": plan_folders(roots[:1], "paired", [items]),
        "unpaired": plan_folders(roots, "unpaired", [items, others]),
        "pairs": plan_pairs(roots, Matching(pairs, unmatched)),
    }


@pytest.mark.parametrize("name", plans())
@pytest.mark.parametrize("shard", [None, (2, 3)])
def test_an_earlier_row_is_found_again_unless_it_is_rejected(
    name: str, shard: tuple[int, int] | None
) -> None:
    plan = plans()[name]
    plan = plan.shard(*shard) if shard else plan
    for index, task in enumerate(tasks(plan)):
        found = plan.find(task.root, task.sources, task.key)
        assert found == (None if task.rejected else index)
        assert plan.find(task.root, (b"another.jpg",), task.key) is None
    assert plan.find(0, (b"never seen.jpg",), "never seen") is None


def test_a_source_costs_little_memory() -> None:
    count = 20_000
    tracemalloc.start()
    plan = plan_folders(
        [Path("in")], "paired", [(Item(b"folder/%07d.jpg" % n) for n in range(count))]
    )
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert plan.task(count - 1).key == f"folder/{count - 1:07d}"
    assert held / count < 100
    assert peak / count < 400, "the transient part (keys of one run) does not grow with the count"


def test_a_path_that_comes_twice_does_not_collide_with_itself() -> None:
    assert UniqueKeys([b"a.jpg", b"a.jpg"])[b"a.jpg"] == key_of(b"a.jpg")
