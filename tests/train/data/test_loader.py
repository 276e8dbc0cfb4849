"""Processes that load images: their errors are the parent's, and they end with it."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from interrupted import members_gone
from small_corpus import write_corpus
from small_runs import seen

from img2img_data.core.errors import CorpusError


def damage_image(corpus: Path) -> Path:
    path = corpus / "train/input/003.png"
    path.write_bytes(path.read_bytes()[:-30])
    return path


def remove_image(corpus: Path) -> Path:
    path = corpus / "train/target/003.png"
    path.unlink()
    return path


@pytest.mark.parametrize("damage", [damage_image, remove_image])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_line_with_any_number_of_workers(
    workers: int, damage: object, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "c", {"train": 6}, size=(16, 16))
    path = damage(corpus)  # type: ignore[operator]
    others = multiprocessing.active_children()  # idle workers that other tests have left
    with pytest.raises(CorpusError) as error:
        seen("l2", corpus, range(3), workers)
    assert str(error.value).startswith(f"image '{path}': ")
    assert "\n" not in str(error.value)
    # Python waits for them when it ends.
    for worker in set(multiprocessing.active_children()) - set(others):
        worker.join(30)
        assert not worker.is_alive()


ORPHANED = """
    import multiprocessing, os, sys
    sys.path[:0] = [{tests!r}, {folder!r}]
    from pathlib import Path
    from img2img_train.data import loader

    class Importing:
        def __getitem__(self, number):
            Path({folder!r}, f"began {{number}}").touch()
            import endless

    if __name__ == "__main__":
        # The default of newer Pythons; the loader forks all the same.
        multiprocessing.set_start_method("forkserver")
        next(loader.raw_batches(Importing(), range(9), 2))
"""


def test_no_worker_outlives_its_parent_even_while_it_imports(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(300)")
    values = {"tests": str(Path(__file__).parents[2]), "folder": str(tmp_path)}
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(ORPHANED).format(**values))
    parent = subprocess.Popen([sys.executable, script], start_new_session=True)
    until = time.monotonic() + 90
    while len(list(tmp_path.glob("began *"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert parent.poll() is None
    parent.send_signal(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL
    assert members_gone(parent.pid)
