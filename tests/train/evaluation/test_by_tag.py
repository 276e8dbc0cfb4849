"""Scores by tag: the choice of tags, their intervals, the tags left out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_models import Brighter, Identity, score, strict_json
from small_corpus import EVIL, tagged, write_corpus

from img2img_data.core.errors import UsageError
from img2img_data.corpus.reader import open_corpus
from img2img_train.evaluation.by_tag import (
    MAX_VALUES,
    MAX_VALUES_ASKED,
    UNKNOWN,
    attributes_of,
    choose_tags,
)
from img2img_train.evaluation.evaluate import evaluate_matrix
from img2img_train.evaluation.results import Matrix, write_matrix
from img2img_train.evaluation.score import Evaluation, Scoring, evaluate_model
from img2img_train.evaluation.settings import EvaluateSettings


def gender(number: int) -> dict[str, Any]:
    return {"gender": ("female", "male", "male")[number % 3], "person": f"p{number}"}


def test_a_page_without_images_or_tags(tmp_path: Path) -> None:
    from fake_models import write_run
    from pages import check_self_contained, elements

    run, corpus = write_run(tmp_path / "run"), write_corpus(tmp_path / "c", {"test": 2})
    for count, shown in ((0, 0), (1, 1), (9, 2)):
        matrix = evaluate_matrix([run], [corpus], EvaluateSettings(device="cpu"), gallery=count)
        page = write_matrix(matrix, tmp_path / "out").read_text("utf-8")
        check_self_contained(page)
        assert len(elements(page, "figure")) == shown


# ----------------------------------------------------------------------------------- attributes
def test_facts_are_kind_tags_and_branches() -> None:
    row = {
        "kind": "degrade",
        "tags": {
            "group": "7",
            "gender": "male",
            "age": 41,
            "score": 0.5,
            "smiles": True,
            "note": None,
        },
        "drawn": {
            "0.one-of.branch": 1,
            "0.one-of.1.motion.length": 5.0,
            "1.resize.factor": 2.0,
            "2.one-of.branch": -1,
            "3.one-of.branch": 0,
            "3.one-of.0.chain.0.one-of.branch": 1,
        },
    }
    assert attributes_of(row) == {
        "kind": "degrade",
        "gender": "male",
        "age": "41",
        "score": "0.5",
        "smiles": "yes",
        "note": UNKNOWN,
        "degradation 1": "motion",
        "degradation 3": "none",
        "degradation 4": "chain",
    }


@pytest.mark.parametrize(
    "row", [{}, {"tags": None}, {"tags": [1], "drawn": 3}, {"tags": {"a": {"b": 1}}}]
)
def test_attributes_of_odd_rows_are_none(row: dict[str, Any]) -> None:
    assert attributes_of(row) == {}


@pytest.mark.parametrize("in_a_list", [True, False])
def test_branches_of_a_real_recipe_have_names(in_a_list: bool) -> None:
    from img2img_data.core.settings_model import Place
    from img2img_data.corpus.format import image_rng
    from img2img_data.degradations.spec import parse_spec

    steps = [{"gaussian": {"sigma": 2}}, {"jpeg": {"quality": [30, 90]}}]
    choice = {"one-of": {"probability": 0.7, "steps": steps}}
    tree = [choice, {"noise": {"sigma": 3}}] if in_a_list else choice
    degradation = parse_spec(tree, Place()).degradation
    found = {
        attributes_of({"drawn": degradation.draw(image_rng(0, str(n).encode()))})["degradation"]
        for n in range(40)
    }
    assert found == {"gaussian", "jpeg", "none"}


# --------------------------------------------------------------------------------------- which tags
def test_tags_with_few_values_are_chosen_and_others_noted() -> None:
    attributes = [
        {
            "gender": "mf"[n % 2],
            "person": str(n),
            "same": "x",
            "many": str(n % (MAX_VALUES + 1)),
            "just": str(n % MAX_VALUES),
        }
        for n in range(100)
    ]
    crowded = f"person (100 values), many ({MAX_VALUES + 1} values)"
    note = f"not scored by {crowded}: too many values for 100 images"
    assert choose_tags(attributes) == (["gender", "just"], [note])
    assert choose_tags(attributes, ["many", "person"])[0] == ["many", "person"]
    assert choose_tags(attributes, ["gone", "gender"]) == (["gender"], ["no image has a tag gone"])
    with pytest.raises(UsageError, match="person"):
        choose_tags([{"person": str(n)} for n in range(MAX_VALUES_ASKED + 1)], ["person"])


def test_an_image_without_the_tag_is_unknown(tmp_path: Path) -> None:
    corpus = tagged(tmp_path / "c", 6, lambda n: {"gender": "female"} if n < 4 else {})
    scored = score(Brighter(), corpus)
    assert [(one.value, one.images) for one in scored.by_tag] == [("female", 4), (UNKNOWN, 2)]


def test_a_tag_that_no_corpus_has_is_rejected(tmp_path: Path) -> None:
    corpus = tagged(tmp_path / "c", 6, gender)
    with pytest.raises(UsageError, match="gender"):
        evaluate_matrix([tmp_path / "run"], [corpus], EvaluateSettings(by=["gander"]))


# ------------------------------------------------------------------------------------------- scores
def test_inputs_that_equal_their_targets_are_noted(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "c", {"test": 3})
    assert score(Identity(), corpus).notes == ()
    first = sorted((corpus / "test" / "input").iterdir())[0]
    first.write_bytes((corpus / "test" / "target" / first.name).read_bytes())
    (note,) = score(Identity(), corpus).notes
    assert note.startswith("1 of 3 inputs equal")
    assert note.endswith("so gains say little")


def scored_alone(corpus: Path, value: str) -> Evaluation:
    opened = open_corpus(corpus)
    pairs = [pair for pair in opened.pairs("test") if pair.row["tags"]["gender"] == value]
    return evaluate_model(Brighter(), opened, pairs)


def test_images_with_a_tag_are_scored_as_if_alone(tmp_path: Path) -> None:
    corpus = tagged(tmp_path / "c", 9, gender)
    scored = score(Brighter(), corpus)
    assert [(one.tag, one.value, one.images) for one in scored.by_tag] == [
        ("gender", "male", 6),
        ("gender", "female", 3),
    ]
    for one in scored.by_tag:
        expected = scored_alone(corpus, one.value)
        for name, value in one.scores.items():
            assert value == expected.scores[name]
            assert one.input_scores[name] == expected.input_scores[name]
            assert one.gain_interval[name] == expected.gain_interval[name]
    assert scored.images == sum(one.images for one in scored.by_tag)
    weighted = np.average([one.scores["psnr"] for one in scored.by_tag], weights=[6, 3])
    assert scored.scores["psnr"] == pytest.approx(weighted)


def test_groups_are_resampled_within_a_tag_too(tmp_path: Path) -> None:
    scored = score(Brighter(), tagged(tmp_path / "c", 8, lambda n: {"half": n < 4}, crops=2))
    assert [(one.value, one.images, one.groups) for one in scored.by_tag] == [
        ("no", 4, 2),
        ("yes", 4, 2),
    ]
    assert all(one.gain_interval["psnr"] is None for one in scored.by_tag)
    assert scored.gain_interval["psnr"] is not None


def test_the_input_has_no_gain_over_itself_for_any_tag(tmp_path: Path) -> None:
    for one in score(Identity(), tagged(tmp_path / "c", 6, gender)).by_tag:
        assert one.scores == one.input_scores
        assert set(one.gain.values()) == {0.0}


def test_tags_are_in_json_csv_and_on_the_page(tmp_path: Path) -> None:
    corpus = tagged(tmp_path / "c", 6, lambda n: {"odd": ("yes", EVIL)[n % 2], "person": str(n)})
    scored = score(Brighter(), corpus, Scoring(by=("odd",)))
    page = write_matrix(Matrix(("r",), ("c",), "test", (scored,)), tmp_path / "out").read_text(
        "utf-8"
    )
    assert EVIL not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    (found,) = strict_json(tmp_path / "out" / "matrix.json")["evaluations"]
    assert [one["value"] for one in found["by_tag"]] == [EVIL, "yes"]
    with (tmp_path / "out" / "tags.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tag"], row["value"], row["images"]) for row in rows] == [
        ("odd", EVIL, "3"),
        ("odd", "yes", "3"),
    ]
    assert [float(row["psnr_gain"]) for row in rows] == [
        one["gain"]["psnr"] for one in found["by_tag"]
    ]
    with (tmp_path / "out" / "images.csv").open(newline="") as file:
        assert {row["tag person"] for row in csv.DictReader(file)} == {str(n) for n in range(6)}
