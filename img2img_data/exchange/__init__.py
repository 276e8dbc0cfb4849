"""Corpora in the formats of other tools: exports, and WebDataset shards that unpack to the corpus.

Reading folders of other tools is in ``corpus.layouts``.
"""
