"""The demo page on the loopback interface."""

__all__ = ["models", "server"]
