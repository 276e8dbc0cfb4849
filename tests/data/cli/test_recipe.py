"""Recipes are checked before any work; each mistake is one line with file, line and key path."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run
from conftest import write_photos

from img2img_data.cli.json_schema import schema_of
from img2img_data.cli.recipe import Recipe, forecast_recipe, load_recipe
from img2img_data.cli.steps import STEPS, run_step
from img2img_data.core.errors import UsageError
from img2img_data.core.jsonl import read_rows
from img2img_data.core.settings_model import help_of
from img2img_data.core.yaml_file import RECIPE_KEYS, read_yaml, shipped_recipes
from img2img_data.degradations.registry import BLUR_KINDS, DEGRADATIONS
from img2img_data.degradations.spec import parse_spec

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PLAIN = "corpus:\n  - blur: {source: photos, out: corpus, sigma: 2}\n"

WRONG = {
    "unknown section": (
        "corpsu: []\n" + PLAIN,
        r"line 1: key 'corpsu': unknown; did you mean 'corpus'",
    ),
    "unknown step": (
        "corpus:\n  - blurr: {}",
        r"line 2: key 'corpus.0.blurr': unknown; did you mean 'blur'",
    ),
    "unknown key": (
        PLAIN.replace("sigma", "sgima"),
        r"'corpus.0.blur.sgima': unknown; did you mean 'sigma'",
    ),
    "wrong value": (
        PLAIN.replace("2}", "-2}"),
        r"line 2: key 'corpus.0.blur.sigma'.*greater than 0 \(got -2",
    ),
    "wrong type": (PLAIN.replace("2}", "strong}"), r"'corpus.0.blur.sigma'.*number.*'strong'"),
    "wrong kind": (
        PLAIN.replace("sigma: 2", "kind: gausian"),
        r"corpus.0.blur.kind'.*mean 'gaussian'",
    ),
    "wrong word": (
        PLAIN.replace("sigma: 2", "fit: cropp"),
        r"corpus.0.blur.fit'.*'cropp'.*mean 'crop'",
    ),
    "of another kind": (
        PLAIN.replace("sigma: 2", "kind: resize, sigma: 2"),
        r"blur.sigma': does not belong",
    ),
    "wrong split": (
        PLAIN.replace("sigma: 2", "split: train=0.5"),
        r"corpus.0.blur.split': the shares sum to 0.5",
    ),
    "second step": (
        PLAIN + "  - lab: {source: a, out: b, bits: 9}",
        r"line 3: key 'corpus.1.lab.bits'",
    ),
    "no folder": ("corpus: [blur: {out: b}]", r"key 'corpus.0.blur.source': missing"),
    "no path": ("corpus: [blur: {source: [a], out: b}]", r"'corpus.0.blur.source': is not a path"),
    "nul": ('corpus: [blur: {source: "a\\0", out: b}]', r"'corpus.0.blur.source': is not a path"),
    "same out": (
        PLAIN + "  - lab: {source: a, out: ./corpus}",
        r"'corpus.1.lab.out': is also the output of step 1",
    ),
    "no settings": ("corpus: [blur: ]", r"'corpus.0.blur'.*dictionary"),
    "two in one": ("corpus: [{blur: {}, lab: {}}]", r"'corpus.0': is not a single"),
    "no steps": ("name: x", r"no 'corpus' steps"),
    "steps of text": ("corpus: blur", r"line 1: key 'corpus'"),
    "flat small size": (PLAIN + "smoke: {epochs: 2}", r"line 3: key 'smoke.epochs': unknown"),
    "small step": (
        PLAIN + "smoke: {corpus: [blur: {sigma: -1}]}",
        r"line 3: key 'smoke.corpus.0.blur.sigma'",
    ),
}
NAMED = ("pix2pix", "l1", "cgan", "patch1", "patch16", "patch70", "patch286", "encoder_decoder")
BROKEN = {
    "no mapping": ("- 1", r"not a mapping"),
    "twice": (
        "name: a\nabout: b\nname: c",
        r"line 3 of recipe.*'name' appears twice, first in line 1",
    ),
    "twice below": (
        PLAIN.replace("sigma: 2", "sigma: 2, sigma: 3"),
        r"line 2 of .*'sigma' appears twice",
    ),
    "tab": ("corpus:\n\t- blur: {}", r"line 2 of .*not tabs"),
    "open": ("corpus: [", r"line 1 of .*not YAML"),
    "two documents": ("a: 1\n---\nb: 2", r"not YAML"),
    "tag": ("name: !!python/object/apply:os.system ['true']", r"line 1 of .*not YAML"),
    "key": ("? [a, b]\n: 1", r"a key is not text"),
    "inside itself": ("corpus: &a [*a]", r"an alias is inside"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, r"nested too deeply"),
    "long number": ("a: " + "9" * 400, r"line 1 of .*a number of 400 digits"),
    "control character": ("a: \x01", r"not YAML"),
    "large": ("a: " + "x" * (1 << 20), r"limit 1048576"),
    "many steps": (
        "corpus:\n" + "- a: {}\n" * 20_000,
        r"line \d+ of .*10,000 values are the limit",
    ),
    "an unpaired surrogate": ('name: "\\ud800"', r"line 1 of .*an unpaired surrogate"),
    "an unpaired surrogate in a key": (
        'corpus: [blur: {"\\udcff": 1}]',
        r"line 1 of .*an unpaired surrogate",
    ),
}


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rejection_of(path: Path) -> str:
    with pytest.raises(UsageError) as rejected:
        load_recipe(path)
    assert "r.yaml" in str(rejected.value)
    assert "\n" not in str(rejected.value)
    return str(rejected.value)


def test_lists_are_counted_in_items() -> None:
    output = json.dumps(schema_of("recipe"))
    assert '"minItems": 1' in output
    texts = json.dumps(schema_of("degradation"))
    assert "minLength" not in texts


@pytest.mark.parametrize("name", [*WRONG, *BROKEN])
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, name: str) -> None:
    text, message = (WRONG | BROKEN)[name]
    line = rejection_of(written(tmp_path, text))
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "data", ["name: \xe4".encode("latin-1"), "name: a".encode("utf-16"), b"a: \xff"]
)
def test_other_encodings_are_one_line(tmp_path: Path, data: bytes) -> None:
    assert "UTF-8" in rejection_of(written(tmp_path, data))


def test_an_alias_bomb_is_rejected_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "aliases expand to too many values" in rejection_of(written(tmp_path, "\n".join(lines)))
    merged = ["a0: &a0 {x: 1}"]
    merged += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    assert "aliases expand to too many values" in rejection_of(written(tmp_path, "\n".join(merged)))


def test_yaml_values_are_read_as_written(tmp_path: Path) -> None:
    text = "a: no\non: 1e-3\nb: 12:30\nc: 2020-01-01\nd: 010\ne: true\nf: ~\n"
    text += "g: 0x10\nh: -.5\ni: .inf\nj: 1_0\n"
    content = read_yaml(written(tmp_path, text)).content
    assert content["a"] == "no"
    assert content == {
        "a": "no",
        "on": 1e-3,
        "b": "12:30",
        "c": "2020-01-01",
        "d": 10,
        "e": True,
        "f": None,
        "g": 16,
        "h": -0.5,
        "i": float("inf"),
        "j": "1_0",
    }


def test_anchors_share_settings_between_steps(tmp_path: Path) -> None:
    text = """\
corpus:
  - blur: &one {source: photos, out: a, size: 64, sigma: 1e0, group_by: no}
  - blur: {<<: *one, out: b, sigma: 3}
"""
    first, second = load_recipe(written(tmp_path, "\ufeff" + text))
    assert first.settings == {"size": 64, "sigma": 1.0, "group_by": "no"}
    assert second.settings == {**first.settings, "sigma": 3}
    assert [str(p) for p in second.paths] == ["photos", "b"]
    line = rejection_of(
        written(tmp_path, text.replace("sigma: 1e0", "sigma: -1").replace(", sigma: 3", ""))
    )
    assert "line 2: key 'corpus.0.blur.sigma'" in line


def test_an_unreadable_name_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "a\x1b[31m.yaml").write_text("x: 1")
    with pytest.raises(UsageError) as rejected:
        load_recipe(tmp_path / "a\x1b[31m.yaml")
    assert "\x1b" not in str(rejected.value)
    assert "\\x1b" in str(rejected.value)


# ------------------------------------------------------------------------------------------- schema
@functools.cache
def validator_of(what: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    if what == "run":
        from img2img_train.config import run_schema

        schema = run_schema()
    else:
        schema = schema_of(what)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def check(instance: Any, what: str = "recipe") -> list[str]:
    return [error.message for error in validator_of(what).iter_errors(instance)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_fits_the_schema(path: Path) -> None:
    content = read_yaml(path).content
    assert check(content) == []
    if "corpus" in content:
        assert load_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_run_has_a_small_size_and_reads_the_outputs_of_its_steps(path: Path) -> None:
    from img2img_train.config import config_of, read_recipe

    content = read_yaml(path).content
    assert ("run" in content) == ("smoke" in content)
    for smoke in (False, True) if "run" in content else ():
        outputs = {str(step.paths[-1]) for step in load_recipe(path, smoke)}
        config = config_of(read_recipe(path, smoke))
        assert {choice.path for choice in config.corpora} <= outputs
        assert content["name"] == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_says_what_it_needs_and_its_figures_are_measured_ones(path: Path) -> None:
    content = read_yaml(path).content
    assert content["name"] == path.stem
    assert content["about"]
    docs = "".join(
        (ROOT / "docs" / name).read_text("utf-8") for name in ("experiments.md", "log.md")
    )
    for size in (content, content.get("smoke")):
        if size is None or "corpus" not in content:
            continue
        steps = load_recipe(path, size is not content)
        made = {step.paths[-1].parts[0] for step in steps}
        sources = {source.parts[0] for step in steps for source in step.paths[:-1]}
        assert all(folder in content["needs"] for folder in sources - made)
        # The side of the last step, where it has one; an import keeps that of its source.
        sides = steps[-1].settings.get("tile") or steps[-1].settings.get("size") or size["size"]
        assert size["size"] == sides
        assert all(number in docs for number in re.findall(r"\d+\.\d+", size.get("score", "")))
        assert ("minutes" in size) <= ("score" in size)
    assert content["needs"]


def test_a_recipe_is_found_by_name_and_a_file_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from img2img_data.degradations.spec import degradation
    from img2img_train.config import degradation_of, read_recipe

    assert list(shipped_recipes()) == [path.stem for path in RECIPES]
    # Names of recipes and kinds are both what --degrade takes.
    assert not shipped_recipes().keys() & DEGRADATIONS.keys()
    monkeypatch.chdir(tmp_path)
    # In the current folder, files of those names: they are named by a separator or their ending.
    for name in ("demo", "demo.yaml", "mine"):
        Path(name).write_text(PLAIN + "degradation: jpeg\nrun: {corpora: corpus}\n")
    assert load_recipe("demo") == load_recipe(ROOT / "recipes" / "demo.yaml")
    own = load_recipe("demo.yaml")
    assert own == load_recipe("./demo") == load_recipe(Path("demo")) == load_recipe("./mine")
    assert own != load_recipe("demo")
    assert read_recipe("demo")["out"] == "demo/run"
    assert read_recipe("./demo") == {"corpora": "corpus"}
    assert degradation("demo") != degradation("demo.yaml") == degradation("./mine")
    assert degradation("mixed") == degradation(ROOT / "recipes" / "mixed.yaml")
    assert degradation_of("demo") == degradation_of(str(ROOT / "recipes" / "demo.yaml"))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("dmeo", "recipe 'dmeo': unknown; did you mean 'demo'?"),
        ("xyz", "recipe 'xyz': unknown; 'img2img-data recipes' lists those"),
        ("mine", "recipe 'mine': unknown; the file of that name is './mine'"),
        ("recipes/demo.yaml", "recipe 'recipes/demo.yaml': no such file; 'demo', without"),
        ("other.yaml", "recipe 'other.yaml': No such file"),
    ],
)
def test_an_unknown_recipe_is_one_line(tmp_path: Path, recipe: str, message: str) -> None:
    (tmp_path / "mine").write_text(PLAIN)
    for command in (["build", recipe], ["degrade", tmp_path, tmp_path / "o", "--recipe", recipe]):
        line = run(*command, cwd=tmp_path, code=2)
        assert message.lower() in line.lower()
        assert line.count("\n") == 1


def test_a_pipeline_is_not_read_from_a_recipe_that_build_rejects(tmp_path: Path) -> None:
    from img2img_data.degradations.spec import degradation
    from img2img_train.config import degradation_of

    assert {*RECIPE_KEYS} == {*Recipe.model_fields}
    recipe = written(tmp_path, PLAIN + "degradation: jpeg\nruns: {corpora: corpus}\n")
    for read in (load_recipe, degradation, degradation_of):
        with pytest.raises(UsageError, match="line 4: key 'runs': unknown; did you mean 'run'"):
            read(recipe)


def test_recipes_are_listed_and_printed() -> None:
    output = run("recipes")
    assert max(map(len, output.splitlines())) <= 100
    pipelines, corpora = output.split("\nCorpora: img2img-data build NAME")
    assert pipelines.startswith("Degradations of your photos: img2img-data degrade ")
    for text, key in ((pipelines, "degradation"), (corpora, "corpus")):
        words, listed = " ".join(text.split()), re.findall(r"^    (\w+)  ", text, re.MULTILINE)
        contents = {path.stem: read_yaml(path).content for path in RECIPES}
        assert sorted(listed) == sorted(
            name for name, content in contents.items() if key in content
        )
        for name in listed:
            assert f"{name} {contents[name]['about']}" in words
            assert key == "degradation" or f"needs {contents[name]['needs']} " in words
    assert run("recipes", "mixed") == (ROOT / "recipes" / "mixed.yaml").read_text("utf-8")


def test_a_recipe_of_the_other_command_is_named_with_that_command(tmp_path: Path) -> None:
    photos, text = write_photos(tmp_path / "photos", 1), "name: own\ndegradation: jpeg\n"
    own = written(tmp_path, text)
    for recipe in ("camera", own):
        hint = f"'img2img-data degrade PHOTOS OUT --recipe {recipe}' applies it"
        assert hint in run("build", recipe, code=2)
        run("degrade", photos, tmp_path / Path(recipe).stem, "--recipe", recipe)
    words = ["degrade", photos, tmp_path / "out", "--recipe"]
    output = run(*words, "facades_l1", code=2)
    assert "recipe 'facades_l1': has no 'degradation'; 'img2img-data build facades_l1'" in output
    # The names of kinds do not count.
    assert "recipe 'noise': unknown" in run(*words, "noise", code=2)


def test_the_experiments_recipes_have_the_published_numbers() -> None:
    from img2img_train.config import config_of, read_recipe

    published = {
        p.stem
        for p in RECIPES
        if p.stem.startswith(("facades", "yosemite", "cuhk_", "landscapes_c"))
    }
    assert {f"facades_{n}" for n in NAMED} | {
        "cuhk_sketch2photo",
        "landscapes_colorization",
    } <= published
    assert {f"wiki_{n}" for n in ("gaussian", "random", "resize", "mixed")} <= {
        p.stem for p in RECIPES
    }
    for name in published:
        config = config_of(read_recipe(ROOT / "recipes" / f"{name}.yaml"))
        defaults = config.objective.published_defaults()
        if config.preset == "original":
            defaults = {"batch": 1, "epochs": 200, "epochs_decay": 100}
        known = {key: getattr(config, key) for key in defaults}
        assert known == defaults | ({"batch": 4} if name == "landscapes_colorization" else {}), name
        width = config.objective.generator_spec((3, 3)).width
        assert (width, config.lr, config.flip, config.limit) == (64, 2e-4, True, 0)
        assert getattr(config.objective, "l1_weight", 100) == 100
    discriminators = {
        n: read_recipe(ROOT / "recipes" / f"facades_patch{n}.yaml") for n in (1, 16, 70, 286)
    }
    assert all(values["discriminator"] == f"patch-{n}" for n, values in discriminators.items())


def test_the_small_size_of_a_recipe(tmp_path: Path) -> None:
    step = "    - blur: {source: photos, out: small, size: 16}\n"
    small = f"{PLAIN}smoke:\n  corpus:\n{step}  run: {{epochs: 2}}\n"
    path = written(tmp_path, small)
    assert [str(step.paths[-1]) for step in load_recipe(path)] == ["corpus"]
    assert [str(step.paths[-1]) for step in load_recipe(path, smoke=True)] == ["small"]
    assert check(read_yaml(path).content) == []
    same = written(tmp_path, PLAIN + "smoke: {run: {epochs: 2}}\n")
    assert load_recipe(same, smoke=True) == load_recipe(same)
    with pytest.raises(UsageError, match="no section 'smoke'; leave --smoke out"):
        load_recipe(written(tmp_path, PLAIN), smoke=True)


def test_a_small_size_is_built(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4)
    steps = "smoke:\n  corpus:\n    - blur: {source: photos, out: small, size: 16, sigma: 1}\n"
    output = run("build", written(tmp_path, PLAIN + steps), "--smoke", "--jobs", 1, cwd=tmp_path)
    assert "'small' is complete: 4 sources" in output
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_run_fits_the_trainers_schema(path: Path) -> None:
    from img2img_train.config import read_recipe

    content = read_yaml(path).content
    if "run" in content:
        assert read_recipe(path)
        assert check(content["run"], "run") == []
        assert check({**content["run"], "epohcs": 3}, "run")


@pytest.mark.parametrize(
    "path", [p for p in RECIPES if "corpus" in read_yaml(p).content], ids=lambda p: p.stem
)
@pytest.mark.parametrize("change", ["unknown key", "no output", "unknown step", "wrong type"])
def test_a_mutated_recipe_fails_in_both(tmp_path: Path, path: Path, change: str) -> None:
    content = read_yaml(path).content
    ((name, settings),) = content["corpus"][-1].items()
    mutated = {
        "unknown key": {name: {**settings, "sgima": 3}},
        "no output": {name: {k: v for k, v in settings.items() if k != "out"}},
        "unknown step": {name + "x": settings},
        "wrong type": {name: {**settings, "jobs": "many"}},
    }
    content["corpus"][-1] = mutated[change]
    assert check(content)
    rejection_of(written(tmp_path, json.dumps(content)))


@pytest.mark.parametrize(
    "name", [n for n in WRONG if n not in {"nul", "same out", "wrong split", "no steps"}]
)
def test_the_schema_sees_the_same_mistakes(tmp_path: Path, name: str) -> None:
    assert check(read_yaml(written(tmp_path, WRONG[name][0])).content)


def descriptions(schema: object) -> Iterator[str]:
    """Yield the descriptions at any depth."""
    if isinstance(schema, dict):
        if isinstance(schema.get("description"), str):
            yield schema["description"]
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from descriptions(part)


@pytest.mark.parametrize("what", ["recipe", "degradation", "corpus-row", *STEPS])
def test_descriptions_in_a_schema_are_lines(what: str) -> None:
    texts = list(descriptions(schema_of(what)))
    assert texts
    assert not [text for text in texts if "\n" in text]


def test_descriptions_in_the_schema_of_a_run_are_lines() -> None:
    from img2img_train.config import run_schema

    assert not [text for text in descriptions(run_schema()) if "\n" in text]


@pytest.mark.parametrize("name", STEPS)
def test_schema_of_each_step_describes_its_settings(name: str) -> None:
    schema = schema_of(name)
    assert check(dict.fromkeys(STEPS[name].paths, "folder"), name) == []
    described = {field for one in schema.get("anyOf", [schema]) for field in one["properties"]}
    for model in STEPS[name].models:
        for field, about in model.model_fields.items():
            assert field in described
            assert help_of(about)


TREES = {
    "a kind by itself": "grayscale",
    "a range": {"gaussian": {"sigma": [1, 3, "log"]}},
    "text": {"gaussian": {"sigma": "1..3"}},
    "chain": [{"median": None, "probability": 0.5}, {"jpeg": {"quality": [30, 95]}}],
    "one-of": {"one-of": [{"gaussian": {}, "weight": 2}, "median"]},
    "one-of, whole": {"one-of": {"steps": ["median", "webp"], "probability": 0.5}},
    "way of enlarging": {"resize": {"down": "area", "up": ["linear", "cubic"]}},
}
WRONG_TREES = {
    "unknown kind": {"gausian": {}},
    "unknown setting": [{"gaussian": {"sgima": 3}}],
    "out of range": {"jpeg": {"quality": 0}},
    "two kinds": {"median": {}, "gaussian": {}},
    "no steps": {"one-of": []},
    "unknown setting of a composite": {"one-of": {"steps": ["median"], "propability": 1}},
    "probability": {"median": {}, "probability": 2},
    "number": 3,
}


@pytest.mark.parametrize("name", TREES)
def test_trees_of_degradations_fit_their_schema(tmp_path: Path, name: str) -> None:
    content = {"degradation": TREES[name], "corpus": [{"degrade": {"source": "a", "out": "b"}}]}
    assert check(content) == []
    assert check(TREES[name], "degradation") == []
    assert load_recipe(written(tmp_path, json.dumps(content)))


@pytest.mark.parametrize("name", WRONG_TREES)
def test_wrong_trees_fit_neither(tmp_path: Path, name: str) -> None:
    content = {
        "corpus": [{"degrade": {"source": "a", "out": "b", "degradation": WRONG_TREES[name]}}]
    }
    assert check(content)
    assert "'corpus.0.degrade.degradation" in rejection_of(written(tmp_path, json.dumps(content)))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_every_degradation_has_a_place_in_the_schema(kind: str) -> None:
    example = DEGRADATIONS[kind].example().model_dump(mode="json")
    if "transform" not in example and "steps" not in example:
        assert check({kind: example}, "degradation") == []
    assert check({kind: {"no such setting": 1}}, "degradation") or "transform" in example


def test_settings_of_another_kind_fit_neither() -> None:
    for kind, model in BLUR_KINDS.items():
        others = {f for m in BLUR_KINDS.values() for f in m.model_fields} - set(model.model_fields)
        for other in others:
            assert check({"source": "a", "out": "b", "kind": kind, other: 2}, "blur")


def test_rows_of_real_corpora_fit_their_schema(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    for step, paths in (("blur", 1), ("lab", 1), ("combine", 2), ("unpaired", 2)):
        out = tmp_path / step
        settings = {"jobs": 1, "size": "32", "fit": "crop"}
        run_step(
            step, [*[photos] * paths, out], settings, lambda done, total: None, lambda line: None
        )
        rows = read_rows(out / "train" / "metadata.jsonl")
        assert rows
        assert [check(row, "corpus-row") for row in rows] == [[]] * len(rows)


# ------------------------------------------------------------------------------------------ dry run
CHAIN = """\
corpus:
  - select: {source: photos, out: chosen}
  - blur: {source: chosen, out: corpus, split: "train=0.5,val=0.5", jobs: 1}
"""


def test_dry_run_counts_what_the_run_then_makes(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 9)
    written(tmp_path, CHAIN)
    output = run("build", "r.yaml", "--dry-run", cwd=tmp_path)
    assert "9 sources > up to 9" in output
    assert "made by step 1 (select), which has not run yet" in output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "r.yaml"]

    run("build", "r.yaml", "--jobs", "1", cwd=tmp_path)
    counts = json.loads((tmp_path / "corpus" / "corpus.json").read_bytes())["counts"]["kept"]
    output = run("build", "r.yaml", "--dry-run", cwd=tmp_path)
    assert f"up to 9: train {counts['train']}, val {counts['val']}" in output
    assert output.count("is already complete: nothing to do") == 2
    single = run("blur", "chosen", "new", "--split", "train=0.5,val=0.5", "--dry-run", cwd=tmp_path)
    assert f"train {counts['train']}, val {counts['val']}" in single
    assert not (tmp_path / "new").exists()


def test_dry_run_tells_unfinished_and_foreign_folders(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4)
    written(tmp_path, PLAIN)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("x")
    assert "holds other files" in run("build", "r.yaml", "--dry-run", cwd=tmp_path, code=2)
    (tmp_path / "corpus" / "mine.txt").unlink()
    run("build", "r.yaml", cwd=tmp_path)
    written(tmp_path, PLAIN.replace("2}", "3}"))
    output = run("build", "r.yaml", "--dry-run", cwd=tmp_path, code=2)
    assert "other settings (--sigma 3.0, was --sigma 2.0)" in output


def test_dry_run_tells_how_far_an_unfinished_run_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", 200)
    (step,) = load_recipe(written(tmp_path, PLAIN))
    monkeypatch.chdir(tmp_path)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(step.name, step.paths, {**step.settings, "jobs": 1}, stop, lambda line: None)
    output: list[str] = []
    assert forecast_recipe([step], output.append) == 0
    assert re.search(r"'corpus' is unfinished: \d+ of 200 sources are done", "\n".join(output))


def test_dry_run_knows_a_folder_that_earlier_steps_fill_in_part(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4)
    steps = [f"  - resize: {{source: photos, out: sized/{s}, size: 16}}\n" for s in ("a", "b")]
    last = "  - blur: {source: sized, out: corpus}\n"
    written(tmp_path, "corpus:\n" + "".join(steps) + last)
    output = run("build", "r.yaml", "--dry-run", cwd=tmp_path)
    assert output.count("which has not run yet") == 2


def test_dry_run_goes_on_behind_a_missing_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    written(tmp_path, "corpus:\n  - lab: {source: nowhere, out: a}\n" + PLAIN.partition("\n")[2])
    output = run("build", "r.yaml", "--dry-run", cwd=tmp_path, code=2)
    assert "error: folder 'nowhere': no such folder" in output
    assert "2 sources > up to 2: train 2" in output


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bsrgan", ("use_sharp", "REFLECT_101", "isp_model", "patches", "8 bits", "correlated")),
        ("real_esrgan", ("gan_gt_usm", "REFLECT_101", "'area'", "pool", "400 pixels", "DiffJPEG")),
    ],
)
def test_a_published_recipe_lists_what_differs(name: str, words: tuple[str, ...]) -> None:
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    listed = text.partition("# All differences:")[2].partition("degradation:")[0]
    assert not [word for word in words if word not in listed]


@pytest.mark.parametrize("name", ["bsrgan", "real_esrgan"])
def test_a_blind_restorer_trains_on_what_its_corpus_holds_at_a_scale_of_1(name: str) -> None:
    content, place = read_yaml(ROOT / "recipes" / f"{name}.yaml")
    pipeline = content["corpus"][0]["degrade"]["degradation"]
    assert content["run"]["degrade"] == pipeline
    smallest = {"bsrgan": 0.5, "real_esrgan": 0.15}[name]
    degradation = parse_spec(pipeline, place).degradation
    drawn = [degradation.draw(np.random.default_rng(seed)) for seed in range(99)]
    scales = [value for one in drawn for key, value in one.items() if key.endswith(".scale")]
    assert min(scales) >= smallest


def test_bsrgan_shuffles_half_of_the_images_and_the_noises_of_the_others() -> None:
    content, place = read_yaml(ROOT / "recipes" / "bsrgan.yaml")
    degradation = parse_spec(content["degradation"], place.below("degradation")).degradation
    orders = [degradation.draw(np.random.default_rng(seed)) for seed in range(200)]
    shuffled = [drawn for drawn in orders if drawn["0.one-of.branch"] == 0]
    assert 70 < len(shuffled) < 130
    for half in (2, 6):
        name = f"0.one-of.1.chain.{half}.shuffle.order.0"
        firsts = {drawn[name] for drawn in orders if drawn["0.one-of.branch"] == 1}
        assert firsts == {0, 1, 2}
