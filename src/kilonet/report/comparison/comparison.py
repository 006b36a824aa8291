"""Groups of runs held against one another: the whole comparison, in words and as JSON."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import Images, load_data
from kilonet.evaluation.scoring import correct_predictions
from kilonet.evaluation.statistics import mean_and_std
from kilonet.models.model import load_model
from kilonet.report.comparison.groups import Entry, Group, read_groups
from kilonet.report.comparison.significance import ALPHA, ModelsTest, SeedsTest, holm, models_test, seeds_test
from kilonet.utils.errors import KilonetError
from kilonet.utils.text_tables import aligned


@dataclass(frozen=True)
class Pair:
    """Two groups and the tests between them. `str()` gives the words."""

    first: Group
    second: Group
    over_seeds: SeedsTest
    p: float | None
    """Of the test over seeds, adjusted for the number of pairs."""
    on_images: tuple[tuple[ModelsTest, float], ...]
    """McNemar's tests of their models by rising seed, with p adjusted for the number of all such tests."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values; `p` is as tested, `p_holm` adjusted."""
        images = [{**test.as_json(), "p_holm": p} for test, p in self.on_images]
        names = {"first": self.first.name, "second": self.second.name}
        seeds = {**self.over_seeds.as_json(), "p_holm": self.p}
        return {**names, "over_seeds": seeds, "on_images": images, "words": str(self)}

    def __str__(self) -> str:
        """Say what is shown, and what is not."""
        return "\n".join([f"{self.first.name} against {self.second.name}: {self._over_seeds()}", *self._on_images()])

    def _over_seeds(self) -> str:
        test, counts = self.over_seeds, (len(self.first.entries), len(self.second.entries))
        count = f"n = {counts[0]}" if counts[0] == counts[1] else f"n = {counts[0]} and {counts[1]}"
        errors = self._difference()
        if test.p is None or self.p is None or test.interval is None:
            reason = "takes two runs of each" if min(counts) < 2 else "has no spread to go by"
            return f"{errors}; a t-test over seeds {reason} ({count})"
        kind = "paired t-test over the same seeds" if test.kind == "paired" else "Welch's t-test, the seeds differ"
        low, high = test.interval if test.difference > 0 else [-end for end in reversed(test.interval)]
        figures = f"95 % interval {low:.1f} to {high:.1f}, p = {_p(self.p)}, {kind}"
        if self.p >= ALPHA:
            return f"no difference shown at {count}: {errors} ({figures})"
        return f"{errors}, {count} ({figures})"

    def _difference(self) -> str:
        difference = self.over_seeds.difference
        if difference == 0:
            return "both make equally many errors"
        fewer, more = (self.first, self.second) if difference > 0 else (self.second, self.first)
        return f"{fewer.name} makes {abs(difference):.1f} errors fewer than {more.name}"

    def _on_images(self) -> list[str]:
        lines = []
        for test, p in self.on_images:
            seeds = f"seed {test.seeds[0]}" if len(set(test.seeds)) == 1 else "seeds {} and {}".format(*test.seeds)
            alone = f"right alone on {test.first_alone} images, {self.second.name} on {test.second_alone}"
            shown = "" if p < ALPHA else ", no difference shown"
            lines.append(f"  {seeds}, image by image: {self.first.name} is {alone}: p = {_p(p)}{shown}")
        return lines


@dataclass(frozen=True)
class Comparison:
    """Groups and pairs. `str()` gives the table and the words."""

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers."""
        groups = [group.as_json() for group in self.groups]
        return {"images": self._images, "groups": groups, "pairs": [pair.as_json() for pair in self.pairs]}

    @property
    def _images(self) -> str:
        result = self.groups[0].entries[0].result
        return f"{result.scored_images:,} {result.scored.lower()} images"

    def __str__(self) -> str:
        """Return the report."""
        heads = ("runs", "parameters", "n", "accuracy", "sd", "95 % interval", "errors", "seeds")
        rows = [heads, *map(_cells, self.groups)]
        parts = [f"Final epoch, {self._images}:", *aligned(rows, range(len(heads))), *_what_differs(self.groups)]
        if self.pairs:
            parts += ["", *map(str, self.pairs)]
        seeds, images = len(self.pairs), sum(len(pair.on_images) for pair in self.pairs)
        if max(seeds, images) > 1:
            counts = [f"{count} tests {what}" for count, what in ((seeds, "over seeds"), (images, "image by image"))]
            parts.append(f"p adjusted by Holm for {' and '.join(counts[: 1 + (images > 0)])}; below {ALPHA} is shown.")
        return "\n".join(parts)


def compare(sources: Sequence[str]) -> Comparison:
    """Compare runs.

    Args:
        sources: run folders, folders of run folders, or files that `kilonet train --json` printed; the latter are
            without models, so their predictions are not compared.

    Raises:
        KilonetError: runs that cannot be read, or that were not scored on the same images.
    """
    if not sources:
        raise KilonetError("no runs given; name run folders, folders of seeds or files of results")
    groups = read_groups(sources)
    couples = list(itertools.combinations(groups, 2))
    over_seeds = [seeds_test(*couple) for couple in couples]
    answers = _Answers()
    on_images = [_models_tests(first, second, answers) for first, second in couples]
    adjusted = iter(holm([test.p for tests in on_images for test in tests]))
    seeds_p = holm([test.p for test in over_seeds])
    return Comparison(
        groups,
        tuple(
            Pair(*couple, test, p, tuple((one, next(adjusted) or 0.0) for one in tests))
            for couple, test, p, tests in zip(couples, over_seeds, seeds_p, on_images, strict=True)
        ),
    )


def _models_tests(first: Group, second: Group, answers: "_Answers") -> list[ModelsTest]:
    """Test models pair by pair, in the order of their seeds, where both are at hand."""
    couples = zip(first.entries, second.entries, strict=False)
    return [
        models_test((one.seed, other.seed), answers.right(one), answers.right(other))
        for one, other in couples
        if one.folder and other.folder
    ]


class _Answers:
    """Which images models get right, each scored once."""

    def __init__(self) -> None:
        self._images: Images | None = None
        self._right: dict[str, NDArray[np.bool_]] = {}

    def right(self, entry: Entry) -> NDArray[np.bool_]:
        """Return bool (N,), which of the scored images a run's model gets right."""
        key = entry.result.model_sha256
        if key not in self._right:
            images = self._scored(entry)
            logits = load_model(str(entry.folder)).logits(images.pixels)
            self._right[key] = correct_predictions(logits, images.labels).numpy()
        return self._right[key]

    def _scored(self, entry: Entry) -> Images:
        """Return the images that all runs were scored on."""
        if self._images is None:
            run = entry.result.recipe.run
            self._images = load_data(run.data, holdout=run.holdout).test
            if len(self._images) != entry.result.scored_images:
                raise KilonetError(f"{run.data} is not what {entry.name} was scored on: it has other images by now")
        return self._images


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _cells(group: Group) -> tuple[str, ...]:
    mean, deviation = mean_and_std([100 * accuracy for accuracy in group.accuracies])
    spread = "" if math.isnan(deviation) else f"{deviation:.3f}"
    interval = "" if group.interval is None else "{:.3f} to {:.3f}".format(*(100 * end for end in group.interval))
    errors = ", ".join(str(entry.errors) for entry in group.entries)
    counts = (f"{group.parameters:,}", str(len(group.entries)))
    return (group.name, *counts, f"{mean:.3f} %", spread, interval, errors, ", ".join(map(str, group.seeds)))


def _what_differs(groups: Sequence[Group]) -> list[str]:
    """Say which recipe keys tell the groups apart."""
    recipes = [group.entries[0].recipe_but_the_seed() for group in groups]
    keys = list(dict.fromkeys(key for recipe in recipes for key in recipe))
    lines = []
    for key in keys:
        values = [recipe.get(key) for recipe in recipes]
        if any(value != values[0] for value in values):
            shown = "; ".join(f"{group.name} {_shown(value)}" for group, value in zip(groups, values, strict=True))
            lines.append(f"  {key.partition('.')[2]}: {shown}")
    return ["They differ in", *lines] if lines else []


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)
