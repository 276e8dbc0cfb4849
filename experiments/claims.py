"""Rules that check a claim against the measurements of an experiment.

A rule is fixed where the experiment is defined, before its numbers are seen. A claim is

- confirmed: in every seed, and the 95 % interval is on the claimed side of the threshold;
- not confirmed: in no seed, and the interval is on the other side;
- inconclusive: anything else;
- without a result: there is no interval (a log of fewer than three runs) or no data.

A claim that a model is good is also compared with the best baseline (the input, one color for all
images, classical filters): what a baseline does as well is not confirmed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from measurements import (
    DIGITS,
    LABELS,
    PROPERTIES,
    Difference,
    Results,
    Values,
    compare,
    gains_of_images,
    minus,
    over_images,
    over_runs,
    spread,
)

Status: TypeAlias = Literal["confirmed", "not confirmed", "inconclusive", "no result"]
WORST_FIRST: Final[tuple[Status, ...]] = ("no result", "not confirmed", "inconclusive", "confirmed")


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """The status of a claim, and the numbers that decided it."""

    status: Status
    numbers: str


Rule: TypeAlias = Callable[[Results], ClaimResult]


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence, with its source, and the rule that checks it."""

    text: str
    rule: Rule


def status_of(difference: Difference, threshold: float = 0.0) -> Status:
    """Return the status of the claim that a difference is above a threshold."""
    if difference.interval is None:
        return "no result"
    low, high = difference.interval
    if low > threshold and (difference.by_seed > threshold).all():
        return "confirmed"
    if high < threshold and (difference.by_seed < threshold).all():
        return "not confirmed"
    return "inconclusive"


def reversed_status(status: Status) -> Status:
    """Return the status of the opposite claim."""
    opposite: dict[Status, Status] = {"confirmed": "not confirmed", "not confirmed": "confirmed"}
    return opposite.get(status, status)


def worst(*statuses: Status) -> Status:
    """Return the status of the claim that all of several claims hold."""
    return min(statuses, key=WORST_FIRST.index)


# ------------------------------------------------------------------------------- rules on images
def gains(model: str, test: str, metric: str = "psnr") -> Rule:
    """Return a rule, confirmed if a model beats the best baseline, which the input is one of."""

    def rule(results: Results) -> ClaimResult:
        name = results.best_baseline(test, metric)
        numbers = f"best baseline: {name}; "
        result = _against(results, metric, model, name, test)
        return ClaimResult(result.status, numbers + result.numbers)

    return rule


def better(metric: str, model: str, other: str, test: str) -> Rule:
    """Return a rule, confirmed if ``model`` is better than ``other`` and than the best baseline.

    A property is compared with ``other`` only.
    """

    def rule(results: Results) -> ClaimResult:
        result = _against(results, metric, model, other, test)
        if metric in PROPERTIES:
            return result
        than_baseline = gains(model, test, metric)(results)
        status = worst(result.status, than_baseline.status)
        return ClaimResult(status, f"{result.numbers}; {than_baseline.numbers}")

    return rule


def no_better(metric: str, model: str, other: str, test: str, margin: float) -> Rule:
    """Return a rule, confirmed if ``model`` is shown to be less than ``margin`` better.

    It is one of the two one-sided tests of equivalence (Schuirmann 1987): to be worse is no better
    either. A difference that is merely not significant confirms nothing.
    """

    def rule(results: Results) -> ClaimResult:
        result = _against(results, metric, model, other, test, margin)
        numbers = f"{result.numbers}; claimed: by less than {margin:g}"
        return ClaimResult(reversed_status(result.status), numbers)

    return rule


def about_equal(metric: str, model: str, other: str, test: str, margin: float) -> Rule:
    """Return a rule, confirmed if the difference is shown to be within ``margin`` on both sides,
    and the model to be better than the input: two that fail alike are no finding.

    These are two one-sided tests (TOST; Schuirmann 1987), each at 2.5 %.
    """

    def rule(results: Results) -> ClaimResult:
        difference = compare(results.scores[model, test], results.scores[other, test], metric)
        equal = worst(status_of(difference, -margin), status_of(-difference, -margin))
        gain = _against(results, metric, model, "input", test)
        numbers = _against(results, metric, model, other, test).numbers
        numbers += f"; claimed: within {margin:g}; input: {gain.numbers}"
        return ClaimResult(worst(equal, gain.status), numbers)

    return rule


def harms(model: str, test: str) -> Rule:
    """Return a rule, confirmed if a model is worse than the input by PSNR."""

    def rule(results: Results) -> ClaimResult:
        result = _against(results, "psnr", model, "input", test)
        return ClaimResult(reversed_status(result.status), result.numbers)

    return rule


def share(test: str, reference: str, model: str, least: float = 0, most: float = 0) -> Rule:
    """Return a rule about the gain in PSNR on ``test`` as a share of that on ``reference``.

    Confirmed if there is a gain on ``reference``, and the share is at most ``most``, or at least
    ``least`` and the model beats the best baseline on ``test``: a filter that gains as little
    everywhere transfers too.
    """

    def rule(results: Results) -> ClaimResult:
        gain, groups = _gains_over_input(results, model, test)
        base, others = _gains_over_input(results, model, reference)
        difference = minus(gain, groups, base, others, most or least)
        status = status_of(difference)
        near, far = over_images(gain, groups), over_images(base, others)
        numbers = (
            f"gain {near.text(2)} dB; {far.mean:+.2f} dB on {reference}: a share of "
            f"{near.mean / far.mean:.2f}, claimed: {'at most' if most else 'at least'} "
            f"{most or least:g}"
        )
        if most:
            return ClaimResult(worst(reversed_status(status), status_of(far)), numbers)
        than_baseline = gains(model, test)(results)
        status = worst(status, than_baseline.status)
        return ClaimResult(status, f"{numbers}; {than_baseline.numbers}")

    return rule


def gains_more(test: str, reference: str, model: str) -> Rule:
    """Return a rule, confirmed if a model gains PSNR over the input on ``test``, and more than on
    ``reference``.
    """

    def rule(results: Results) -> ClaimResult:
        gain, groups = _gains_over_input(results, model, test)
        base, others = _gains_over_input(results, model, reference)
        difference = minus(gain, groups, base, others)
        numbers = f"gain {np.mean(gain):+.2f} dB on {test}, {np.mean(base):+.2f} dB on {reference}"
        status = worst(status_of(difference), status_of(over_images(gain, groups)))
        return ClaimResult(status, f"{numbers}; difference {difference.text(2)}")

    return rule


def drifts(model: str, test: str, channel: str, threshold: float) -> Rule:
    """Return a rule, confirmed if a property of the outputs, RED or YELLOW, exceeds that of the
    inputs by more than a positive threshold, or is below it by more than a negative one.
    """

    def rule(results: Results) -> ClaimResult:
        scores, inputs = results.scores[model, test], [results.baselines[test]["input"]]
        difference = over_images(gains_of_images(scores, inputs, channel), scores[0].groups)
        status = status_of(difference, threshold)
        if threshold < 0:
            status = reversed_status(status)
        side = "below" if threshold < 0 else "above"
        numbers = f"{LABELS[channel]} {difference.text(2)}; claimed: {side} {threshold:+g}"
        return ClaimResult(status, numbers)

    return rule


def _against(
    results: Results, metric: str, model: str, other: str, test: str, threshold: float = 0.0
) -> ClaimResult:
    """Return the result of the claim that a model is better than another one, or a baseline, by
    more than a threshold.
    """
    first = results.scores[model, test]
    baseline = results.baselines.get(test, {}).get(other)
    second = [baseline] if baseline else results.scores[other, test]
    digits, difference = DIGITS[metric], compare(first, second, metric)
    one, two = (spread([s.mean(metric) for s in scores], digits) for scores in (first, second))
    change = f"{'more' if metric in PROPERTIES else 'better'} by {difference.text(digits)}"
    numbers = f"{LABELS[metric]} {one} against {two}; {change}"
    return ClaimResult(status_of(difference, threshold), numbers)


def _gains_over_input(results: Results, model: str, test: str) -> tuple[list[Values], list[str]]:
    """Return the gain in PSNR of each image, seed by seed, and the groups of the images."""
    scores, inputs = results.scores[model, test], [results.baselines[test]["input"]]
    return gains_of_images(scores, inputs, "psnr"), scores[0].groups


# ----------------------------------------------------------------------------------- rules on logs
def wider_gap(model: str, other: str, least: float = 1.0) -> Rule:
    """Return a rule on the gap between training and held-out pairs.

    Confirmed if that of ``model`` is more than ``least`` times as wide as that of ``other``.
    """

    def rule(results: Results) -> ClaimResult:
        gaps = [[run.gap() for run in results.models[name]] for name in (model, other)]
        excess = over_runs([a - least * max(b, 0.0) for a, b in zip(*gaps, strict=True)])
        numbers = f"gap {spread(gaps[0], 2)} dB against {spread(gaps[1], 2)} dB"
        return _of_logs(excess, f"{numbers}; claimed: more than {least:g} times")

    return rule


def overfits(model: str, gap: float) -> Rule:
    """Return a rule, confirmed if the PSNR on training pairs exceeds that on held-out pairs by more
    than ``gap``, in dB.
    """

    def rule(results: Results) -> ClaimResult:
        gaps = [run.gap() for run in results.models[model]]
        numbers = f"gap {spread(gaps, 2)} dB; claimed: more than {gap:g} dB"
        return _of_logs(over_runs([value - gap for value in gaps]), numbers)

    return rule


def halves_cycle(model: str) -> Rule:
    """Return a rule, confirmed if the cycle loss falls to half or less from first to last epoch."""

    def rule(results: Results) -> ClaimResult:
        losses = [run.cycle_losses() for run in results.models[model]]
        starts, ends = zip(*losses, strict=True)
        shares = [end / start for start, end in losses]
        maes = [row["cycle_mae"] for row in results.models[model][0].log if "cycle_mae" in row]
        held_out = f"; held-out cycle MAE {maes[0]:.1f} to {maes[-1]:.1f} levels" if maes else ""
        numbers = (
            f"{np.mean(starts):.4g} in epoch 1, {np.mean(ends):.4g} in the last: "
            f"{spread(shares, 2)} of it{held_out}"
        )
        return _of_logs(over_runs([0.5 - share for share in shares]), numbers)

    return rule


def _of_logs(excess: Difference, numbers: str) -> ClaimResult:
    count = len(excess.by_seed)
    runs = "one run each" if count == 1 else f"{count} runs each"
    numbers += f"; excess {excess.text(2)}" if excess.interval else f"; no result: {runs}"
    return ClaimResult(status_of(excess), numbers)


def no_data(why: str) -> Rule:
    """Return a rule for a claim that the data at hand cannot check."""
    return lambda results: ClaimResult("no result", why)
