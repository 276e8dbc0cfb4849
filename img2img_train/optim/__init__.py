"""Learning-rate schedules, Adam on a CPU, the moving average of weights; the rest is torch's."""
