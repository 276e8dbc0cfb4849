"""Learning-rate schedules and the moving average of weights."""

__all__ = ["ema", "lr_schedule"]
