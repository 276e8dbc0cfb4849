"""Corpora in the formats of other tools, and back."""

__all__ = ["export", "webdataset_pack", "webdataset_unpack"]
