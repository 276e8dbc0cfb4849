"""Learning-rate schedules and the moving average of weights; the optimizers are torch's own."""

__all__ = ["ema", "optimizers"]
