"""On a real Dask cluster of two workers: the bytes of a plain run, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import COMMAND, run, tree
from conftest import write_photos
from deadly import LOST

from img2img_data.cli.steps import run_step
from img2img_data.core.errors import Img2ImgError, UsageError

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two worker processes, each watched by a nanny that starts it again."""
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Photos enough to be killed in their midst, and what a plain run makes of them."""
    root = tmp_path_factory.mktemp("many")
    photos = write_photos(root / "photos", 400, 160, 160)
    run("blur", photos, root / "plain", "--jobs", 2)
    return photos, tree(root / "plain")


def on(cluster: Any) -> list[str]:
    return ["--backend", "dask", "--scheduler", cluster.scheduler_address]


def pids(cluster: Any) -> set[int]:
    with distributed.Client(cluster.scheduler_address, set_as_default=False) as client:
        return set(client.run(os.getpid).values())


def test_a_cluster_makes_the_bytes_of_a_plain_run(cluster: Any, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 40)
    (photos / "broken.jpg").write_bytes(b"none")
    run("blur", photos, tmp_path / "plain", "--kind", "random-gaussian", "--jobs", 1)
    run("blur", photos, tmp_path / "out", "--kind", "random-gaussian", *on(cluster))
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    assert not (tmp_path / "out" / ".building").exists()


def test_copies_are_found_on_a_cluster_too(cluster: Any, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    (photos / "same.jpg").write_bytes((photos / "007.jpg").read_bytes())
    for out, options in (("plain", ["--jobs", 1]), ("out", on(cluster))):
        run("select", photos, tmp_path / out, "--drop-duplicates", *options)
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")
    assert "same.jpg" in (tmp_path / "out" / "duplicates.jsonl").read_text()


def test_shards_on_a_cluster_merge_to_the_plain_run(cluster: Any, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 20)
    run("select", photos, tmp_path / "plain", "--jobs", 1)
    for number in (1, 2):
        run("select", photos, tmp_path / str(number), "--shard", f"{number}/2", *on(cluster))
    run("merge", tmp_path / "1", tmp_path / "2", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "plain")


def test_a_killed_worker_loses_nothing(
    cluster: Any, many: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    photos, plain = many
    before, out = pids(cluster), tmp_path / "out"
    argv = [*COMMAND, "blur", str(photos), str(out), *on(cluster)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not any(out.glob("train/input/*.png")):
        time.sleep(0.01)
    assert process.poll() is None, "the kill must come in mid-run"
    os.kill(min(before), signal.SIGKILL)
    assert process.wait(timeout=90) == 0, process.stdout and process.stdout.read()
    assert tree(out) == plain


@pytest.mark.parametrize(("work", "limit", "reason"), LOST.values())
def test_a_deadly_task_costs_only_itself(
    work: Any, limit: float, reason: str, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from img2img_data.runner.dask_cluster import ClusterPool, connected

    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    lost: list[tuple[int, str]] = []

    def note(task: int, why: str) -> int:
        lost.append((task, why))
        return -1

    with connected(cluster.scheduler_address) as client:
        pool: ClusterPool[int, int] = ClusterPool(
            work, lambda i: i, note, limit=limit, client=client, folders=[]
        )
        assert sorted(pool.run(range(24))) == sorted([-1, *(i for i in range(24) if i != 7)])
    assert lost == [(7, reason)]


def test_quick_tasks_are_sent_in_larger_chunks(cluster: Any) -> None:
    from img2img_data.runner.dask_cluster import ClusterPool, connected
    from img2img_data.runner.workers import CHUNK

    sent: list[int] = []

    class CountingPool(ClusterPool[int, int]):
        def _submit(self, indices: Sequence[int]) -> Any:
            sent.append(len(indices))
            return super()._submit(indices)

    with connected(cluster.scheduler_address) as client:
        pool = CountingPool(abs, lambda i: -i, max, client=client, folders=[])
        assert sorted(pool.run(range(50 * CHUNK))) == list(range(50 * CHUNK))
    assert sum(sent) == 50 * CHUNK
    assert CHUNK < max(sent) <= 4 * CHUNK, "a death repeats a whole chunk"


def test_folders_that_workers_lack_are_one_line(cluster: Any) -> None:
    from img2img_data.runner.dask_cluster import ClusterPool, connected

    with connected(cluster.scheduler_address) as client:
        places = {"client": client, "folders": ["/nowhere/here"]}
        pool: ClusterPool[int, int] = ClusterPool(abs, int, max, **places)
        with pytest.raises(UsageError, match=r"/nowhere/here.*share"):
            list(pool.run(range(3)))


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (["--backend", "dask"], "--scheduler"),
        (["--scheduler", "tcp://127.0.0.1:9"], "--backend dask"),
        (["--backend", "dask", "--scheduler", "tcp://127.0.0.1:9"], "no scheduler answers"),
        (["--backend", "dask", "--scheduler", "nonsense://x"], "no scheduler answers"),
    ],
)
def test_a_scheduler_that_cannot_be_reached_is_one_line(
    options: list[str], output: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("img2img_data.runner.dask_cluster.CONNECT_SECONDS", 0.5)
    settings = dict(zip((o[2:] for o in options[::2]), options[1::2], strict=True))
    with pytest.raises(UsageError, match=output) as caught:
        run_step(
            "blur",
            [photos, tmp_path / "out"],
            settings,
            lambda done, total: None,
            lambda line: None,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_scheduler_that_goes_away_is_one_line_and_the_run_goes_on(
    many: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    photos, plain = many
    where, out = tmp_path / "scheduler.json", tmp_path / "out"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [
        sys.executable,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"]
    more = ["--no-dashboard", "--scheduler-file", str(where)]
    with (
        subprocess.Popen([*dask, *more], **quiet) as scheduler,
        subprocess.Popen([*worker, *more], **quiet) as one,
    ):
        try:
            while not where.is_file():
                time.sleep(0.05)
            address = json.loads(where.read_text())["address"]
            argv = [
                *COMMAND,
                "blur",
                str(photos),
                str(out),
                "--backend",
                "dask",
                "--scheduler",
                address,
            ]
            process = subprocess.Popen(
                argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            while process.poll() is None and not any(out.glob("train/input/*.png")):
                time.sleep(0.01)
            scheduler.kill()
            output = process.communicate(timeout=90)[0]
        finally:
            scheduler.kill()
            one.kill()
    assert process.returncode == 1
    assert output.startswith(f"error: scheduler '{address}': is gone")
    assert len(output.splitlines()) == 1
    run("blur", photos, out, "--jobs", 2)
    assert tree(out) == plain


def test_a_cluster_without_workers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this the run would wait forever for workers that no nanny starts again."""
    from img2img_data.runner import dask_cluster

    monkeypatch.setattr(dask_cluster, "WORKER_SECONDS", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as empty,
        distributed.Client(empty.scheduler_address, set_as_default=False) as client,
    ):
        pool: dask_cluster.ClusterPool[int, int] = dask_cluster.ClusterPool(
            abs, lambda i: i, lambda task, why: -1, client=client, folders=[]
        )
        message = f"'{empty.scheduler_address}': lost all workers; start some, then run"
        with pytest.raises(Img2ImgError, match=message):
            list(pool.run(range(3)))


def test_without_dask_a_hint_in_one_line(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "distributed.py").write_text("raise ImportError('none here')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    argv = [
        *COMMAND,
        "blur",
        str(photos),
        str(tmp_path / "out"),
        "--backend",
        "dask",
        "--scheduler",
        "tcp://x:1",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert "img2img[dask]" in done.stderr
    assert len(done.stderr.splitlines()) == 1
