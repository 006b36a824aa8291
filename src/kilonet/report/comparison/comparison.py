"""Groups of runs compared with one another: tests between all pairs, as text and as JSON."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kilonet.data.datasets import Images
from kilonet.data.preprocessing import Preprocessing
from kilonet.evaluation.metrics import METRIC_NAMES, Metric
from kilonet.evaluation.scoring import correct_predictions
from kilonet.evaluation.statistics import listed, mean_and_std
from kilonet.models.calibration import check_finite
from kilonet.models.model import load_model
from kilonet.report.comparison.groups import Group, read_groups
from kilonet.report.comparison.significance import ALPHA, ModelsTest, SeedsTest, holm, models_test, seeds_test
from kilonet.report.subject import check_result_of
from kilonet.training.run_data import divided, load_run_data
from kilonet.training.run_records import RunRecord, repetition_keys
from kilonet.utils.errors import KilonetError
from kilonet.utils.text_tables import aligned


@dataclass(frozen=True)
class Pair:
    """Two groups and the tests between them. `str()` describes the outcome."""

    first: Group
    second: Group
    over_seeds: SeedsTest
    p: float | None
    """The p-value of the test over seeds, adjusted for the number of pairs."""
    on_images: tuple[tuple[ModelsTest, float], ...]
    """McNemar's tests of their models by rising seed, each with its p adjusted for the number of such tests."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values; `p` is the p-value of the test itself, `p_holm` the adjusted one."""
        images = [{**test.as_json(), "p_holm": p} for test, p in self.on_images]
        names = {"first": self.first.name, "second": self.second.name}
        seeds = {**self.over_seeds.as_json(), "p_holm": self.p}
        return {**names, "over_seeds": seeds, "on_images": images, "words": str(self)}

    def __str__(self) -> str:
        return "\n".join([f"{self.first.name} against {self.second.name}: {self._over_seeds()}", *self._on_images()])

    def _over_seeds(self) -> str:
        test, counts = self.over_seeds, (len(self.first.records), len(self.second.records))
        count = f"n = {counts[0]}" if counts[0] == counts[1] else f"n = {counts[0]} and {counts[1]}"
        difference = self._difference()
        if test.p is None or self.p is None or test.interval is None:
            reason = "takes two runs of each" if min(counts) < 2 else "has no spread to go by"
            return f"{difference}; a t-test over seeds {reason} ({count})"
        kind = "paired t-test over the same seeds" if test.kind == "paired" else "Welch's t-test, the seeds differ"
        low, high = test.interval if test.difference > 0 else [-end for end in reversed(test.interval)]
        digits = 1 if self.first.metric == "accuracy" else 2
        figures = f"95 % interval {low:.{digits}f} to {high:.{digits}f}, p = {_p(self.p)}, {kind}"
        if self.p >= ALPHA:
            return f"no difference shown at {count}: {difference} ({figures})"
        return f"{difference}, {count} ({figures})"

    def _difference(self) -> str:
        difference, metric = self.over_seeds.difference, self.first.metric
        better, worse = (self.first, self.second) if difference > 0 else (self.second, self.first)
        if round(difference, 9) == 0:
            same = "make equally many errors" if metric == "accuracy" else f"have the same {METRIC_NAMES[metric]}"
            return f"both {same}"
        if metric == "accuracy":
            return f"{better.name} makes {abs(difference):.1f} errors fewer than {worse.name}"
        return f"the {METRIC_NAMES[metric]} of {better.name} is {abs(difference):.2f} points above that of {worse.name}"

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
    """Groups and the pairs of them. `str()` gives the table and the outcome of every test."""

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]

    def as_json(self) -> dict[str, Any]:
        groups = [group.as_json() for group in self.groups]
        pairs = [pair.as_json() for pair in self.pairs]
        return {"metric": self.metric, "images": self._images, "groups": groups, "pairs": pairs}

    @property
    def metric(self) -> Metric:
        """What the groups are compared by."""
        return self.groups[0].metric

    @property
    def _images(self) -> str:
        result = self.groups[0].records[0].result
        return f"{result.scored_images:,} {result.scored.lower()} images"

    def __str__(self) -> str:
        each = "errors" if self.metric == "accuracy" else "each, %"
        heads = ("runs", "parameters", "n", METRIC_NAMES[self.metric], "sd", "95 % interval", each, "seeds")
        rows = [heads, *map(_cells, self.groups)]
        parts = [f"Final epoch, {self._images}:", *aligned(rows, range(len(heads))), *_differences(self.groups)]
        if self.pairs:
            parts += ["", *map(str, self.pairs)]
            if self.metric != "accuracy":
                parts.append("Image by image runs are compared by their accuracy only.")
        seeds, images = len(self.pairs), sum(len(pair.on_images) for pair in self.pairs)
        if max(seeds, images) > 1:
            counts = [f"{count} tests {what}" for count, what in ((seeds, "over seeds"), (images, "image by image"))]
            parts.append(f"p adjusted by Holm for {' and '.join(counts[: 1 + (images > 0)])}; below {ALPHA} is shown.")
        return "\n".join(parts)


def compare(sources: Sequence[str], metric: Metric = "accuracy") -> Comparison:
    """Compare runs, group by group.

    Args:
        sources: run folders, folders of run folders, or files that `kilonet train --json` printed. Printed runs have no
            models, so their predictions are not compared image by image.
        metric: what they are compared by. Image by image, by McNemar's test, runs are compared by their accuracy only.

    Raises:
        KilonetError: runs that cannot be read, that were scored on different images, or that are of an older version
            that did not measure the metric.
    """
    if not sources:
        raise KilonetError("no runs given; name run folders, folders of seeds or files of results")
    groups = read_groups(sources, metric)
    couples = list(itertools.combinations(groups, 2))
    over_seeds = [seeds_test(*couple) for couple in couples]
    predictions = _Predictions()
    on_images = [_models_tests(*couple, predictions) if metric == "accuracy" else [] for couple in couples]
    adjusted = iter(holm([test.p for tests in on_images for test in tests]))
    seeds_p = holm([test.p for test in over_seeds])
    return Comparison(
        groups,
        tuple(
            Pair(*couple, test, p, tuple((one, next(adjusted) or 0.0) for one in tests))
            for couple, test, p, tests in zip(couples, over_seeds, seeds_p, on_images, strict=True)
        ),
    )


def _models_tests(first: Group, second: Group, predictions: "_Predictions") -> list[ModelsTest]:
    """Test the models of two groups pair by pair, by rising seed, where both models are known."""
    couples = zip(first.records, second.records, strict=False)
    return [
        models_test((one.seed, other.seed), predictions.correct(one), predictions.correct(other))
        for one, other in couples
        if one.folder and other.folder
    ]


class _Predictions:
    """The correct predictions of models on the images that all runs were scored on; each model is scored once."""

    def __init__(self) -> None:
        self._images: dict[Preprocessing, Images] = {}
        self._correct: dict[str, NDArray[np.bool_]] = {}

    def correct(self, record: RunRecord) -> NDArray[np.bool_]:
        """Return which images the model of a run classifies correctly, bool (N,)."""
        key = record.result.model_sha256
        if key not in self._correct:
            images = self._scored_images(record)
            model = load_model(str(record.folder))
            check_result_of(record, model)
            logits = model.logits(images.pixels)
            check_finite(logits.numpy())
            self._correct[key] = correct_predictions(logits, images.labels).numpy()
        return self._correct[key]

    def _scored_images(self, record: RunRecord) -> Images:
        recipe = record.result.recipe
        run, preprocessing = recipe.run, Preprocessing.of(recipe.model)
        if preprocessing not in self._images:
            data = divided(load_run_data(recipe), run)
            if record.result.data_sha256 not in (None, data.fingerprint()):
                raise KilonetError(f"{run.data} has changed since {record.name} was scored on it")
            if len(data.test) != record.result.scored_images:
                raise KilonetError(
                    f"{run.data} has changed since {record.name} was scored on it: "
                    f"it has {len(data.test):,} images, not {record.result.scored_images:,}"
                )
            self._images[preprocessing] = data.test
        return self._images[preprocessing]


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _cells(group: Group) -> tuple[str, ...]:
    mean, deviation = mean_and_std([100 * score for score in group.scores])
    spread = "" if math.isnan(deviation) else f"{deviation:.3f}"
    interval = "" if group.interval is None else "{:.3f} to {:.3f}".format(*(100 * end for end in group.interval))
    if group.metric == "accuracy":
        each = listed([record.errors for record in group.records], "d")
    else:
        each = listed([100 * score for score in group.scores], ".2f")
    counts = (f"{group.parameters:,}", str(len(group.records)))
    return (group.name, *counts, f"{mean:.3f} %", spread, interval, each, listed(group.seeds, "d"))


def _differences(groups: Sequence[Group]) -> list[str]:
    """Return lines that name the recipe keys in which the groups differ."""
    recipes = [repetition_keys(group.records[0].result) for group in groups]
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
