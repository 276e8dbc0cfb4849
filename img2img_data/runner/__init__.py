"""Running one task per image in parallel: plan, workers, journal, manifests. Knows no pairs."""

__all__ = ["build_folder", "manifests", "outcome", "plan", "run", "settings", "splits", "workers"]
