"""The environment of torchrun: the rank of this process; nothing here imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

VARIABLES: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


class MainProcessFailed(Exception):
    """The main process failed and reports why; the others exit silently with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class TorchrunEnv:
    """The rank of this process and the number of processes, over all machines and on this one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def torchrun_env(environment: Mapping[str, str] = os.environ) -> TorchrunEnv:
    """Return what torchrun says in its environment variables; a single process without them."""
    values = [environment.get(name, "") for name in VARIABLES]
    if not all(value.isdigit() for value in values) or "MASTER_ADDR" not in environment:
        return TorchrunEnv()
    return TorchrunEnv(*map(int, values))
