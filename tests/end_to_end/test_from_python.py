"""The packages from Python: public names, doctests, and the same results as the commands."""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import importlib
import inspect
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import make_photo, write_photos
from PIL import Image
from small_corpus import write_corpus, write_deep, write_domains, write_lab
from small_runs import DEGRADED

import img2img_data as data
import img2img_train as train
from img2img_data.degradations.registry import DEGRADATIONS
from img2img_data.images import io
from img2img_train.cli.main import main
from img2img_train.config import configure
from img2img_train.objectives.base import Batch
from img2img_train.training.setup import RunData
from img2img_train.training.signals import StopSignal, handle_signals
from img2img_train.training.step import TrainStep

ROOT = Path(__file__).parents[2]
TINY: dict[str, Any] = {
    "net": "unet",
    "width": 4,
    "epochs": 1,
    "batch": 4,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Change to a folder with photos/, corpora/gaussian and runs/unet, where doctests run."""
    folder, before = tmp_path_factory.mktemp("home"), Path.cwd()
    os.chdir(folder)
    write_photos(Path("photos"), 12)
    splits = "train=0.7,test=0.3"
    data.build("blur", "photos", "corpora/gaussian", kind="gaussian", sigma=3, split=splits, jobs=1)
    train.fit("corpora/gaussian", out="runs/unet", net="unet", width=4, epochs=2)
    yield folder
    os.chdir(before)


def command(*arguments: object) -> None:
    """Run a command of img2img-train in this process."""
    with contextlib.suppress(SystemExit):
        main([str(argument) for argument in arguments])


# ----------------------------------------------------------------------------------- public names
@pytest.mark.parametrize("package", [data, train])
def test_public_names_are_documented_and_listed(package: Any) -> None:
    assert sorted(package.__all__) == package.__all__ == dir(package)
    for name in package.__all__:
        value = getattr(package, name)
        assert name == "__version__" or inspect.getdoc(value), name
    assert package.__version__.split(".")[0].isdigit()
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing


def test_importing_loads_nothing_slow() -> None:
    code = "import sys, img2img_data, img2img_train; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    slow = {"torch", "cv2", "numpy", "pydantic", "click", "rich", "scipy", "PIL"}
    assert not set(done.stdout.split()) & slow


DOCUMENTED = [
    f"{package.__name__}.{module}".rstrip(".")
    for package in (data, train)
    for module in dict.fromkeys(["", *package._MODULES.values()])
]


@pytest.mark.parametrize("module", DOCUMENTED)
def test_examples_in_docstrings_are_true(module: str, home: Path) -> None:
    names = {
        "data": data,
        "train": train,
        "photo": data.open_corpus("corpora/gaussian")["train"][0],
    }
    names["photo"] = names["photo"].target
    examples = importlib.import_module(module)
    result = doctest.testmod(examples, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert not result.failed


@pytest.mark.slow
def test_a_typed_script_passes_mypy(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("""
import numpy as np
from numpy.typing import NDArray
from typing import Any
import img2img_data as data
import img2img_train as train
from PIL import Image
from torch import Tensor

def main(photo: NDArray[np.uint8], picture: Image.Image) -> None:
    corpus: data.Corpus = data.open_corpus("corpora/gaussian")
    for pair in corpus["train"]:
        size: tuple[int, ...] = pair.input.shape
    few: list[str] = [pair.key for pair in corpus["train"][:5]]
    degrade: data.Degradation = data.degradation("gaussian", sigma=(1, 5))
    image, drawn = degrade(photo, seed=None)
    sigma: float = drawn["sigma"]
    built: data.Corpus = data.build("blur", "photos", "corpora/x", kind="gaussian", size=64)
    dataset = train.PairDataset(built, batch=8, flip=True)
    pair_of_tensors: tuple[Tensor, Tensor] = dataset[0]
    for input, target in dataset.batches(epoch=1):
        loss: Tensor = (input - target).square().mean()
    run = train.fit(corpus, loss="l2", out="runs/unet")
    model: train.Model = train.load(run)
    restored: NDArray[Any] = model(photo)
    again: Image.Image = model(picture)
    gain: float = train.evaluate(model, corpus, split="test").gain["psnr"]
    version: str = data.__version__ + train.__version__
""")
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    # The options of ``make lint``, whose cache is of no use with any other.
    options = ["--cache-dir", str(ROOT / ".mypy_cache")]
    options += ["--config-file", str(ROOT / "pyproject.toml")]
    arguments = [sys.executable, "-m", "mypy", *options, str(script)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert all((ROOT / name / "py.typed").is_file() for name in ("img2img_data", "img2img_train"))


# ---------------------------------------------------------------------------------------- corpora
def test_a_corpus_is_a_mapping_of_splits_to_pairs(home: Path) -> None:
    corpus = data.open_corpus("corpora/gaussian")
    assert list(corpus) == ["train", "test"]
    assert "val" not in corpus
    pairs = corpus["train"]
    assert [pair.key for pair in pairs] == [pairs[i].key for i in range(len(pairs))]
    assert [pair.key for pair in pairs[-2:]] == [pairs[-2].key, pairs[-1].key]
    with pytest.raises(data.UsageError, match="it has train, test"):
        corpus["val"]
    assert pickle.loads(pickle.dumps(pairs))[0].key == pairs[0].key, "for workers of a loader"
    assert len(data.open_corpus(corpus)["test"]) == len(corpus["test"]), "a corpus is a path"


@pytest.mark.parametrize("layout", ["folders", "combined"])
def test_images_of_a_pair_are_those_on_disk(layout: str, tmp_path: Path) -> None:
    pair = data.open_corpus(write_corpus(tmp_path, {"train": 2}, layout))["train"][1]
    first, second = pair.corpus.read(pair.files)
    assert np.array_equal(pair.input, first)
    assert np.array_equal(pair.target, second)
    assert pair.drawn == {"sigma": pytest.approx(0.9)}
    assert pair.tags == {"group": "train1"}


def test_pairs_have_the_channels_and_bits_of_the_corpus(tmp_path: Path) -> None:
    lab = data.open_corpus(write_lab(tmp_path / "lab", {"train": 1}))["train"][0]
    assert (lab.input.shape[2], lab.target.shape[2]) == (1, 3)
    deep = data.open_corpus(write_deep(tmp_path / "deep", {"train": 1}, channels=1))["train"][0]
    assert (deep.input.dtype, deep.input.shape[2]) == (np.uint16, 1)


@pytest.mark.parametrize("kind", ["paired", "unpaired", "lab"])
def test_representations_fit_a_notebook(kind: str, tmp_path: Path) -> None:
    make: Any = {"paired": write_corpus, "lab": write_lab, "unpaired": write_domains}[kind]
    root = make(tmp_path / "<b>corpus", 3 if kind == "unpaired" else {"train": 3})
    corpus = data.open_corpus(root)
    assert len(repr(corpus).replace(str(tmp_path), "")) < 80
    assert "<b>" not in corpus._repr_html_()
    assert "<td>train</td><td>3" in corpus._repr_html_()
    if kind == "unpaired":
        with pytest.raises(data.Img2ImgError, match="is unpaired"):
            corpus["train"]
        return
    pair = corpus["train"][0]
    assert len(repr(pair)) < 80
    assert pair._repr_html_().count('src="data:image/png;base64,') == 2
    assert len(repr(corpus["train"]).replace(str(tmp_path), "")) < 80


# ----------------------------------------------------------------------------------- degradations
@pytest.mark.parametrize("kind", sorted(DEGRADATIONS))
def test_a_degradation_is_a_function_of_an_image_and_a_seed(kind: str) -> None:
    degrade, photo = DEGRADATIONS[kind].example(), make_photo(0)
    image, drawn = degrade(photo, seed=1)
    again, same = degrade(Image.fromarray(photo), seed=1)
    assert drawn == same
    assert np.array_equal(image, again)
    assert np.array_equal(image, degrade.apply(photo, **drawn))
    assert degrade(photo, seed=None)[0].shape == photo.shape


def test_degradations_are_named_as_in_recipes(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("degradation:\n  - gaussian: {sigma: [1, 5]}\n  - jpeg\n")
    steps = [{"gaussian": {"sigma": [1, 5]}}, "jpeg"]
    assert data.degradation(recipe) == data.degradation(str(recipe)) == data.degradation(steps)
    blur = data.degradation("gaussian", sigma=(1, 5))
    assert blur == data.degradation({"gaussian": {"sigma": "1..5"}}) == data.degradation(blur)
    for wrong in (
        "gausian",
        str(tmp_path / "none.yaml"),
        ["gaussian", {"jpeg": {"quality": 0}}],
        3,
    ):
        with pytest.raises(data.UsageError):
            data.degradation(wrong)
    with pytest.raises(data.UsageError, match="did you mean 'sigma'"):
        data.degradation("gaussian", sgma=3)


class Invert(data.Degradation):
    """A degradation of a user."""


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (Invert(), "'Invert': must be a row of DEGRADATIONS"),
        (np.invert, "a step but <ufunc 'invert'>"),
    ],
)
def test_a_degradation_that_a_recipe_cannot_name_is_rejected(
    own: Any, message: str, tmp_path: Path
) -> None:
    photos, out = write_photos(tmp_path / "photos", 2), tmp_path / "x"
    with pytest.raises(data.UsageError, match=message):
        data.build("degrade", photos, out, degradation=own)
    with pytest.raises(data.UsageError, match=message):
        train.fit(photos, out, degrade=own)


NO_IMAGES = {
    "integers": np.zeros((4, 4), int),
    "one axis": np.zeros(4, np.uint8),
    "text": "photo.jpg",
    "channels first": np.zeros((3, 64, 48), np.float32),
    "255 as float": np.full((8, 8, 3), 200, np.float32),
    "-1 to 1": np.linspace(-1, 1, 192, dtype=np.float32).reshape(8, 8, 3),
    "not a number": np.full((8, 8, 3), np.nan, np.float32),
    "with a gradient": torch.zeros(8, 8, 3, requires_grad=True),
    "empty": np.zeros((0, 8, 3), np.uint8),
    "palette": Image.new("P", (8, 8)),
    "inks": Image.new("CMYK", (8, 8)),
}


@pytest.mark.parametrize("name", NO_IMAGES)
def test_what_is_not_an_image_is_named(name: str) -> None:
    hint = "convert it to L or RGB" if name in ("palette", "inks") else "H x W x C"
    with pytest.raises(data.UsageError, match=hint):
        data.degradation("gaussian")(NO_IMAGES[name])


def test_numbers_of_numpy_are_parameters() -> None:
    for number in (np.int64(2), np.float32(2), np.uint8(2)):
        assert data.degradation("gaussian", sigma=number) == data.degradation("gaussian", sigma=2)
        assert data.degradation("gaussian", sigma=(1, number)).ranges()["sigma"].high == 2
    with pytest.raises(data.UsageError, match="negative"):
        data.degradation("gaussian")(make_photo(0), seed=-1)


@pytest.mark.parametrize("pipeline", ["camera", data.degradation("gaussian"), ["jpeg"]])
def test_only_a_kind_takes_settings(pipeline: Any) -> None:
    with pytest.raises(data.UsageError, match="takes no settings"):
        data.degradation(pipeline, sigma=2)
    with pytest.raises(data.UsageError, match="did you mean 'gaussian'"):
        data.degradation("gausian", sigma=2)


def test_opened_corpora_and_pairs_can_be_keys(home: Path) -> None:
    corpus = data.open_corpus("corpora/gaussian")
    pairs = list(corpus["train"])
    assert len({corpus, *pairs}) == 1 + len(pairs)
    with pytest.raises(data.UsageError, match="no split '0'"):
        corpus[0]  # type: ignore[index]


@pytest.mark.parametrize("library", ["albumentations", "torchvision"])
def test_a_degradation_is_a_transform_of(library: str) -> None:
    about = inspect.getdoc(data.Degradation) or ""
    function, *lines = textwrap.dedent(about.partition("::\n")[2]).strip().split("\n\n")
    line = next(part for part in "\n".join(lines).splitlines() if f"{library}." in part)
    pytest.importorskip(f"{library}.transforms" if library == "torchvision" else library)
    degrade, photo = data.degradation("gaussian", sigma=3), make_photo(0)
    module = importlib.import_module(library)
    names = {library: module, "degrade": degrade}
    exec(function, names)
    transform = eval(line, names)
    if library == "albumentations":
        output = module.Compose([transform])(image=photo)["image"]
    else:
        output = transform(Image.fromarray(photo))
    assert np.array_equal(output, degrade(photo)[0])


# ----------------------------------------------------------------------------------------- builds
def test_build_makes_the_corpus_of_the_command(home: Path, tmp_path: Path) -> None:
    from img2img_data.cli.main import group

    out, size = tmp_path / "command", 24
    arguments = ["blur", "photos", str(out), "--size", str(size), "--sigma", "1..5", "--jobs", "1"]
    group.main(arguments, standalone_mode=False)
    corpus = data.build("blur", "photos", tmp_path / "python", size=size, sigma=(1, 5), jobs=1)
    for path in (p for p in out.rglob("*") if p.is_file() and p.suffix != ".lock"):
        assert path.read_bytes() == (corpus.root / path.relative_to(out)).read_bytes(), path
    again = data.build("blur", "photos", corpus, size=size, sigma=(1, 5), jobs=1)
    assert again["train"][0].target.shape == (size, size, 3)


def test_a_script_needs_no_guard_for_its_workers(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    build = f"data.build('blur', 'photos', {str(tmp_path / 'x')!r}, size=16, jobs=2)"
    script.write_text(f"import img2img_data as data\nprint({build})")
    arguments = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert (done.stdout.count("train 12"), done.stderr) == (1, "")


BESIDE_JOBLIB = """
import threading, time
import joblib
import img2img_data as data

calls = [joblib.delayed(time.sleep)(0.1) for _ in range(40)]
other = threading.Thread(target=joblib.Parallel(n_jobs=2), args=(calls,))
other.start()
time.sleep(0.5)
print(data.build("degrade", "photos", "beside", degradation="bsrgan", jobs=2))
other.join()
"""


@pytest.mark.slow
def test_a_build_runs_beside_another_pool_of_joblib(home: Path) -> None:
    arguments = [sys.executable, "-c", BESIDE_JOBLIB]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    assert "train 12" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("blurr", "photos", "x"), {}, "did you mean 'blur'"),
        (("select", "photos", "x"), {}, "does not make a corpus"),
        (("blur", "photos"), {}, "takes source, out, but got 1"),
        (("blur", "photos", "x"), {"sgma": 3}, "did you mean 'sigma'"),
        (("blur", "photos", "x"), {"source": "y"}, "'--source': not an option of 'blur'"),
        (("lab", "photos", "x"), {"sourc": "y"}, "'--sourc': not an option of 'lab'; choose"),
        (("blur", "photos", "x"), {"dry_run": True}, "option 'dry_run': would not make a corpus"),
        (("degrade", "photos", "x"), {"degradation": "gausian"}, "did you mean 'gaussian'"),
        (("blur", "nowhere", "x"), {}, "no such folder"),
    ],
)
def test_a_wrong_build_is_a_usage_error(
    arguments: tuple[str, ...], settings: dict[str, Any], message: str, home: Path
) -> None:
    with pytest.raises(data.UsageError, match=message):
        data.build(*arguments, **settings)
    assert not Path("x").exists()


def test_too_many_rejected_images_are_an_error_with_the_report(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    (photos / "bad.jpg").write_bytes(b"not an image")
    with pytest.raises(data.Img2ImgError, match="not-an-image") as raised:
        data.build("blur", photos, tmp_path / "x", jobs=1)
    assert "1 of 4 images cannot be used, more than --max-bad 0.1" in str(raised.value)
    assert not isinstance(raised.value, data.UsageError)
    corpus = data.build("blur", photos, tmp_path / "x", jobs=1, max_bad=0.5)
    assert len(corpus["train"]) == 3


# ------------------------------------------------------------------------------- torch's data sets
BATCHES: dict[str, dict[str, Any]] = {
    **{f"degrade {name}": {"degrade": spec, "flip": True} for name, spec in DEGRADED.items()},
    "crop": {"crop": 16, "jitter": 1.25, "flip": True},
    "load size": {"load_size": 24, "crop": 16},
    "BtoA": {"direction": "BtoA", "seed": 5},
    "weighted": {"corpora": ("a", "b=3"), "flip": True, "batch": 3},
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.usefixtures("one_thread")
def test_batches_are_those_of_fit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for corpus, count in (("a", 6), ("b", 4)):
        write_corpus(Path(corpus), {"train": count})
    settings = {"corpora": "a", "epochs": 2, "batch": 2, **BATCHES[name]}
    corpora: Any = settings.pop("corpora")
    seen: list[Batch] = []
    step = TrainStep.run

    def note(self: TrainStep, batch: Batch, number: int) -> Any:
        seen.append(batch)
        return step(self, batch, number)

    monkeypatch.setattr(TrainStep, "run", note)
    train.fit(corpora, tmp_path / "run", **TINY | settings)
    dataset = train.PairDataset(corpora, **settings)
    batches = [batch for epoch in (0, 1) for batch in dataset.batches(epoch)]
    assert len(batches) == len(seen) > 2
    for (input, target), batch in zip(batches, seen, strict=True):
        assert torch.equal(input, batch.input)
        assert torch.equal(target, batch.target)


def test_items_are_pairs_without_augmentation(tmp_path: Path) -> None:
    corpus = data.open_corpus(write_corpus(tmp_path, {"train": 4}))
    dataset = train.PairDataset(corpus, flip=True, jitter=1.5, batch=2)
    assert len(dataset) == len(list(dataset)) == 4
    for pair, (input, target) in zip(corpus["train"], dataset, strict=True):
        for pixels, tensor in ((pair.input, input), (pair.target, target)):
            assert tensor.dtype == torch.float32
            levels = np.rint((tensor.permute(1, 2, 0).numpy() + 1) * 127.5)
            assert np.array_equal(levels, pixels)
    assert torch.equal(dataset[-1][0], dataset[3][0])
    with pytest.raises(IndexError):
        dataset[4]


def test_workers_and_loaders_of_torch_give_the_same_pairs(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"train": 6})
    dataset = train.PairDataset(tmp_path, degrade=data.degradation("noise"), batch=2, crop=16)
    one, two = list(dataset.batches(3)), list(dataset.batches(3, workers=2))
    assert all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )
    copy = pickle.loads(pickle.dumps(dataset))
    loader = torch.utils.data.DataLoader(copy, batch_size=6, num_workers=1)
    input, target = next(iter(loader))
    assert input.shape == target.shape == (6, 3, 16, 16)
    assert torch.equal(input[2], dataset[2][0])


# ----------------------------------------------------------------------------------------- models
@pytest.fixture(scope="module")
def photos_of_all_kinds(home: Path) -> Path:
    """Return a folder of images of odd sizes, gray, transparent, of 16 bits, turned."""
    folder, rgb = Path("kinds"), make_photo(1, 45, 31)
    folder.mkdir()
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    kinds = {"rgb": rgb, "gray": gray, "rgba": np.dstack([rgb, gray])}
    kinds |= {"deep": rgb.astype(np.uint16) * 257, "deepgray": gray.astype(np.uint16) * 257}
    for name, pixels in kinds.items():
        (folder / f"{name}.png").write_bytes(io.encode(pixels, "png"))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(rgb).save(folder / "turned.png", exif=exif)
    return folder


@pytest.mark.parametrize("name", ["rgb", "gray", "rgba", "deep", "deepgray", "turned"])
def test_a_model_gives_the_images_of_translate(
    name: str, photos_of_all_kinds: Path, tmp_path: Path
) -> None:
    path = photos_of_all_kinds / f"{name}.png"
    command("translate", "runs/unet", path, tmp_path / "out.png", "--tile", 32, "--overlap", 8)
    expected = io.read(tmp_path / "out.png", io.ReadPolicy(depth="keep", channels="keep")).pixels
    model = train.load("runs/unet", tile=32, overlap=8)
    assert np.array_equal(model(path), expected)
    if name != "deep":  # PIL has no colors of 16 bits
        image = model(Image.open(path))
        levels = expected.dtype == np.uint16 and expected.ndim == 3
        assert np.array_equal(np.asarray(image), cv2.convertScaleAbs(expected, alpha=1 / 257)) or (
            not levels and np.array_equal(np.asarray(image), expected)
        )
    if name != "turned":
        pixels = io.read(path, io.ReadPolicy(depth="keep", channels="keep")).pixels
        assert np.array_equal(model(pixels), expected)
        batch = model(np.stack([pixels[..., None] if pixels.ndim == 2 else pixels] * 2))
        assert np.array_equal(batch[1], expected.reshape(*expected.shape[:2], -1))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        torch.zeros(3, 4, 4),
        torch.zeros(4, 4, 3, requires_grad=True),
        [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)],
        3,
    ],
)
def test_a_model_names_what_is_not_an_image(image: Any, home: Path) -> None:
    with pytest.raises(data.UsageError, match="H x W x C"):
        train.load("runs/unet")(image)
    with pytest.raises(data.Img2ImgError, match=r"'runs/unet/config\.json'"):
        train.load("runs/unet")("runs/unet/config.json")
    with pytest.raises(data.UsageError, match="'photos': is a folder"):
        train.load("runs/unet")("photos")


@pytest.mark.parametrize("keeps_gray", [True, False])
def test_the_channels_of_an_array_do_not_depend_on_its_colors(keeps_gray: bool, home: Path) -> None:
    model = train.load("runs/unet", device="cpu")
    model = dataclasses.replace(
        model, loaded=dataclasses.replace(model.loaded, keeps_gray=keeps_gray)
    )
    gray, color = np.full((16, 16, 4), 77, np.uint8), np.dstack([make_photo(1, 16, 16)] * 2)
    assert model(gray).shape == (16, 16, 4)
    assert model(np.stack([gray, color[..., :4]])).shape == (2, 16, 16, 4)
    assert model(Image.fromarray(gray)).mode == "RGBA"


def test_a_pil_image_keeps_its_range_or_is_rejected(home: Path) -> None:
    model, levels = train.load("runs/unet", device="cpu"), np.arange(256).reshape(16, 16) * 257
    deep = levels.astype(np.uint16)
    swapped = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    assert np.array_equal(np.asarray(model(swapped)), np.asarray(model(Image.fromarray(deep))))
    for image in (levels.astype(np.int32), (levels / 65535).astype(np.float32)):
        with pytest.raises(data.UsageError, match="whose range is unknown"):
            model(Image.fromarray(image))


def test_a_model_of_gray_images_takes_and_gives_pil_images(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 4)
    corpus = data.build("blur", photos, tmp_path / "gray", channels="gray", jobs=1)
    model = train.load(train.fit(corpus, tmp_path / "run", **TINY))
    for mode in ("RGB", "L", "P"):
        output = model(Image.fromarray(make_photo(1)).convert(mode))
        assert (output.mode, output.size) == ("L", (40, 32))


def test_load_takes_the_options_of_translate(home: Path) -> None:
    for wrong in ("atob", "A2B", "", 3):
        with pytest.raises(data.UsageError, match="--direction"):
            train.load("runs/unet", direction=wrong)  # type: ignore[arg-type]
    model = train.load("runs/unet", device=torch.device("cpu"), dropout="on", norm="batch", tile=64)
    assert model.loaded.config.test_dropout
    assert (model.loaded.config.test_norm, model.settings.tile) == ("batch", 64)
    with pytest.raises(data.UsageError, match=r"--tiel.*did you mean 'tile'"):
        train.load("runs/unet", tiel=64)
    with pytest.raises(data.UsageError, match="cpu:1 is not available"):
        train.load("runs/unet", device="cpu:1")
    big = np.arange(12, dtype=">u2").reshape(2, 2, 3)
    assert np.array_equal(model(big), model(big.astype(np.uint16)))


# ---------------------------------------------------------------------------------------- training
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("own_handlers")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_raises_what_python_raises_and_the_run_continues(
    number: signal.Signals, error: type[BaseException], home: Path, tmp_path: Path
) -> None:
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, default)  # ignored in the background of a script
    settings = {**TINY, "epochs": 300, "samples_every": 0, "out": tmp_path / "run"}
    before, steps = signal.getsignal(number), tmp_path / "run" / "steps.jsonl"

    def stop() -> None:
        while not steps.is_file():
            time.sleep(0.01)
        if isinstance(signal.getsignal(number), StopSignal):  # else the run is over
            os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(error, match=r"stopped by SIGINT|143"):
        train.fit("corpora/gaussian", **settings)
    assert signal.getsignal(number) is before
    run = train.fit("corpora/gaussian", **settings)
    assert (run.already, run.progress.step) == (False, 300)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.usefixtures("own_handlers")
def test_a_second_interrupt_raises_too() -> None:
    def interrupt(times: int) -> None:
        with handle_signals("raise"):
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        interrupt(2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_has_as_many_epochs_as_max_steps_take(home: Path, tmp_path: Path) -> None:
    config = configure({"corpora": "corpora/gaussian", "out": str(tmp_path), "max_steps": 5000})
    opened = RunData.open(config)
    assert opened.steps == 5000
    assert opened.config.epochs * opened.plan.steps_per_epoch >= 5000
    few = RunData.open(config.model_copy(update={"max_steps": 7}))
    assert (few.steps, few.config.epochs * few.plan.steps_per_epoch >= 3000) == (7, True)


def test_scores_are_those_of_the_command(home: Path, tmp_path: Path) -> None:
    command("evaluate", "runs/unet", "--on", "corpora/gaussian", "--out", tmp_path)
    (saved,) = json.loads(next(tmp_path.rglob("*.json")).read_text())["evaluations"]
    scores = train.evaluate(train.load("runs/unet"), data.open_corpus("corpora/gaussian"))
    assert saved["gain"] == pytest.approx(scores.gain, abs=1e-3)
    assert len(repr(scores)) < 100
    assert f"PSNR {scores.scores['psnr']:.2f} dB, input" in repr(scores)


def test_fit_makes_the_run_of_the_command(home: Path, tmp_path: Path) -> None:
    corpus = data.open_corpus("corpora/gaussian")
    degrade = data.degradation("noise", sigma=(1, 20))
    with torch.inference_mode():
        run = train.fit(corpus, tmp_path / "python", degrade=degrade, **TINY)
    options = [part for n, value in TINY.items() for part in (f"--{n}", value)]
    recipe = tmp_path / "r.yaml"
    recipe.write_text("degradation:\n  noise: {sigma: [1, 20]}\n")
    out = tmp_path / "command"
    command(
        "fit", "corpora/gaussian", "--out", out, "--degrade", recipe, "--no-report",
        *options,
    )  # fmt: skip
    latest = "checkpoints/latest.safetensors"
    assert (Path(run) / latest).read_bytes() == (out / latest).read_bytes()
    assert "is finished: 1 steps" in repr(run)
    more = train.fit([corpus, "corpora/gaussian=2"], tmp_path / "more", init=run, epochs=1)
    assert train.load(more).loaded.spec.width == 4, "the generator is that of init"
