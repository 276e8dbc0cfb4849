"""Generators and discriminators, and the registry that builds them from a spec."""

__all__ = ["generators", "layers", "registry"]
