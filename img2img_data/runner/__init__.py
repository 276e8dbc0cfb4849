"""Runs: one task per image, in parallel, with journal and manifests. Pairs belong in ``builds``."""
