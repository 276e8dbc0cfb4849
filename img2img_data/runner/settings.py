"""The settings of a build: what its bytes depend on, and how a run goes about it."""

from __future__ import annotations

import functools
import math
import re
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from img2img_data.corpus.format import Layout
from img2img_data.images.io import Channels, Fit
from img2img_data.runner.splits import FOLDER, tag_in

_SPLIT_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_NO_SHARE: Final = (
    "is no NAME=SHARE, a share from 0 to 1; write it as in train=0.8,val=0.1,test=0.1"
)


class BuildSettings(BaseModel):
    """What the bytes of a corpus depend on, besides the pairing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: str | None = Field(
        None,
        description="size of every image, as 64 or 640x480 (width x height); default: as they are",
    )
    fit: Fit | None = Field(
        None,
        description="how other sizes get there: scale and cut the middle out, scale and mirror the rim, "
        "stretch, or reject the image  [default: crop; combine: error]",
    )
    format: Literal["png", "jpg", "webp"] = Field(
        "png",
        description="format of the images that are written; a clean "
        "image that needs no change keeps its file, byte for byte",
    )
    quality: int = Field(
        95, ge=1, le=100, description="quality of jpg and webp; webp at 100 is lossless"
    )
    layout: Layout | None = Field(
        None,
        description="folders: input/ and target/; combined: one A|B image  "
        "[default: folders; combine: combined]",
    )
    split: str = Field(
        "train=1",
        description="shares, as in train=0.8,val=0.1,test=0.1; without --stratify a image's split never "
        "depends on the others",
    )
    group_by: str | None = Field(
        None,
        description="keep groups in one split: folder; a tag, as person (any plain word) or tag:NAME; else "
        "a regular expression on the file name whose match (or group 1) is the group, as in '^[^_]*'",
    )
    stratify: str | None = Field(
        None,
        description="let the shares hold within each stratum, to one group: folder, or a tag, as gender or "
        "tag:NAME; a group goes with most of its images; images added later may then move old ones",
    )
    bits: Literal[8, 16] = Field(
        8,
        description="bits a sample, of every image: 16 keeps what 16-bit and float sources hold (png only)",
    )
    channels: Channels = Field(
        "rgb",
        description="of every image: rgb; gray: one, the luma of color ones (png, jpg); "
        "rgba: transparency is kept (png; combine and unpaired only)",
    )
    alpha: Literal["white", "reject"] = Field(
        "white",
        description="transparent images, but for --channels rgba: compose on white, or reject",
    )
    seed: int = Field(0, ge=0, description="seed of everything random")

    @field_validator("size")
    @classmethod
    def _check_size(cls, value: str | None) -> str | None:
        return value if value is None else check_size(value)

    @field_validator("split")
    @classmethod
    def _check_split(cls, value: str) -> str:
        parse_split(value)
        return value

    @field_validator("group_by")
    @classmethod
    def _check_group(cls, value: str | None) -> str | None:
        try:
            re.compile("" if tag_in(value) is not None else value or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value

    @field_validator("stratify")
    @classmethod
    def _check_stratify(cls, value: str | None) -> str | None:
        if value is not None and value != FOLDER and not tag_in(value):
            raise ValueError("strata are 'folder', a tag's name, or tag:NAME")
        return value

    @model_validator(mode="after")
    def _check_strata(self) -> BuildSettings:
        if self.stratify is not None and len(parse_split(self.split)) < 2:
            raise ValueError(
                "--stratify needs more than one share, as in --split train=0.8,test=0.2"
            )
        return self


class RunSettings(BaseModel):
    """How a run goes about it; none of these changes a byte of the result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(
        0,
        ge=0,
        le=1024,
        description="worker processes; 0: one for each core, or as many as a cluster has",
    )
    max_bad: float = Field(
        0.1, ge=0, le=1, description="end with exit code 1 when a larger share is rejected"
    )
    timeout: float = Field(60.0, gt=0, description="seconds one image may take")
    shard: str | None = Field(
        None,
        description="do the i-th of n parts, as in 3/16, in a folder of its own; 'merge' joins them all",
    )
    backend: Literal["loky", "dask"] = Field(
        "loky",
        description="loky: processes on this machine; dask: a Dask cluster that shares its folders",
    )
    scheduler: str | None = Field(
        None, description="address of the Dask scheduler, as in tcp://host:8786; for --backend dask"
    )
    dry_run: bool = Field(False, description="say what would be done, write nothing")

    @field_validator("shard")
    @classmethod
    def _check_shard(cls, value: str | None) -> str | None:
        parse_shard(value)
        return value


def parse_split(text: str) -> dict[str, float]:
    """Return the shares of the splits; ``ValueError`` if they are not names with shares that sum to 1."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        if name in shares:
            raise ValueError(f"'{name}' is there twice")
        if not _SPLIT_NAME.fullmatch(name):
            raise ValueError(f"'{part.strip()}' {_NO_SHARE}")
        shares[name] = _share_of(part.strip(), share)
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"the shares sum to {sum(shares.values()):g}, not to 1")
    return shares


def _share_of(part: str, share: str) -> float:
    try:
        number = float(share)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"'{part}' {_NO_SHARE}")
    return number


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Return (i, n) of "i/n", numbered from 1; ``ValueError`` if it is none."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError("a shard is NUMBER/COUNT, as in 1/4, 2/4, 3/4, 4/4")
    return int(found[1]), int(found[2])


def check_size(value: str) -> str:
    """Return a size as it is; ``ValueError`` when it is none."""
    if not re.fullmatch(r"\d{1,5}(x\d{1,5})?", value) or 0 in map(int, value.split("x")):
        raise ValueError("a size is a number of pixels, or WIDTHxHEIGHT")
    return value


@functools.cache
def parse_size(text: str | None) -> tuple[int, int] | None:
    """Return (width, height) of "64" or "640x480"."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    return int(width), int(height or width)
