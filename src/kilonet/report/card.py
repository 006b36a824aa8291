"""The card that a model is published with: Markdown with metadata, as the Hugging Face Hub reads it.

Source of the form: the model card of M. Mitchell et al., "Model cards for model reporting", 2019, with the Hub's
`model-index` metadata, written and checked by huggingface_hub.
"""

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined

from kilonet.evaluation.scoring import Evaluation, evaluate
from kilonet.evaluation.statistics import mean_and_std, mean_interval, wilson_interval
from kilonet.models.model import serialise
from kilonet.recipe import RunSection
from kilonet.report.subject import Subject
from kilonet.utils.errors import KilonetError
from kilonet.utils.terminal import printable

CARD_MARK = "Written by `kilonet card`."
"""A line that is in every card, so that a card is never written over another file."""

_DATA = {"mnist": ("ylecun/mnist", "MNIST"), "fashion-mnist": ("zalando-datasets/fashion_mnist", "Fashion-MNIST")}
"""The name of each data set on the Hub, and the name it is shown by."""
_MNIST_CREDIT = "MNIST is by Yann LeCun, Corinna Cortes and Christopher J. C. Burges, under CC BY-SA 3.0."


def card_markdown(subject: Subject, licence: str | None) -> str:
    """Return a card whose metadata huggingface_hub reads back unchanged.

    Args:
        subject: the model and what is known about it.
        licence: as the Hub names it; None to name none.

    Raises:
        KilonetError: huggingface_hub reads other metadata than were written.
    """
    evaluation = evaluate(subject.model, subject.images)
    metadata = _metadata(subject, evaluation, licence)
    text = f"---\n{metadata.to_yaml()}\n---\n\n{_body(subject, evaluation, licence)}"
    if ModelCard(text).data.to_dict() != metadata.to_dict():
        raise KilonetError(f"huggingface_hub does not read back the metadata of a card named '{subject.name}'")
    return text


def _metadata(subject: Subject, evaluation: Evaluation, licence: str | None) -> ModelCardData:
    identifier, _ = _names(_run(subject).data)
    return ModelCardData(
        datasets=[identifier] if "/" in identifier else None,
        eval_results=list(_results(subject, evaluation)),
        library_name="kilonet",
        license=licence,
        metrics=["accuracy", "balanced_accuracy", "f1"],
        model_name=subject.name,
        pipeline_tag="image-classification",
        tags=["kilonet", "safetensors", "tiny", "microcontroller"],
    )


def _results(subject: Subject, evaluation: Evaluation) -> Iterator[EvalResult]:
    run = _run(subject)
    identifier, name = _names(run.data)
    common: dict[str, Any] = {"task_type": "image-classification", "task_name": "Image classification"}
    own = common | {"dataset_type": identifier, "dataset_name": name}
    own["dataset_split"] = "train" if run.holdout else "test"
    low, high = evaluation.interval
    yield EvalResult(
        **own,
        metric_type="accuracy",
        metric_name="Accuracy on held-out training images" if run.holdout else "Accuracy",
        metric_value=evaluation.accuracy,
        metric_args={"images": evaluation.images, "interval_95": [round(low, 6), round(high, 6)]},
    )
    yield EvalResult(
        **own,
        metric_type="balanced_accuracy",
        metric_name="Balanced accuracy",
        metric_value=round(evaluation.balanced_accuracy, 6),
    )
    yield EvalResult(
        **own,
        metric_type="f1",
        metric_name="Macro F1",
        metric_value=round(evaluation.macro_f1, 6),
        metric_args={"average": "macro"},
    )
    yield EvalResult(
        **own, metric_type="loss", metric_name="Cross-entropy, nats", metric_value=round(evaluation.loss, 6)
    )
    if subject.robustness:
        yield EvalResult(
            **common,
            dataset_type="mnist_c",
            dataset_name="corruptions of MNIST-C, drawn anew",
            dataset_split="test",
            metric_type="accuracy",
            metric_name=f"Mean accuracy under {len(subject.robustness.accuracies)} corruptions",
            metric_value=subject.robustness.mean,
        )


def _body(subject: Subject, evaluation: Evaluation, licence: str | None) -> str:
    section, record = subject.model.section, subject.record
    # Markdown, not HTML: names are escaped by `_plain` instead.
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)  # noqa: S701
    environment.filters.update(plain=_plain, code=_code)
    template = environment.from_string((files("kilonet.report") / "card.md").read_text(encoding="utf-8"))
    text = template.render(
        subject=subject,
        section=section,
        cost=subject.cost,
        record=record,
        machine=record.result.environment if record else None,
        recipe=_recipe(subject),
        evaluation=evaluation,
        accuracy=_percent(evaluation.accuracy),
        balanced_accuracy=_percent(evaluation.balanced_accuracy),
        macro_f1=_percent(evaluation.macro_f1),
        interval=_span(evaluation.interval),
        shape="x".join(map(str, section.input_shape)),
        digits=subject.model.reads_digits,
        data={"images": _images(subject, evaluation), "text": _data(subject)},
        statistics=_statistics(subject),
        classes=_classes(subject, evaluation),
        limits=list(_limits(subject, evaluation, licence)),
        size=len(serialise(section, subject.model.network.state(), subject.model.metadata)),
        mark=CARD_MARK,
    )
    return re.sub("\n{3,}", "\n\n", text)


def _recipe(subject: Subject) -> str | None:
    if subject.record is None:
        return None
    recipe = subject.record.result.recipe
    # Folders of one's own are named without their paths.
    run, teacher = recipe.run, recipe.distill.teacher
    own = {
        "data": run.data if run.data in _DATA else _last_name(run.data),
        "negatives": None if run.negatives is None else _last_name(run.negatives),
        "teacher": [_last_name(name) if re.search(r"[/\\]", name) else name for name in teacher],
    }
    return recipe.replace(**own).to_toml().strip()


def _last_name(path: str) -> str:
    """Return the last part of a path, in letters that a name on the Hub may have."""
    return re.sub(r"[^\w.-]+", "-", re.split(r"[/\\]", path.rstrip("/\\"))[-1]) or "images"


def _run(subject: Subject) -> RunSection:
    return subject.record.result.recipe.run if subject.record else RunSection()


def _names(data: str) -> tuple[str, str]:
    """Return the name of a data set on the Hub and the name it is shown by; a folder is named without its path."""
    own = _last_name(data)
    return _DATA.get(data, (own, own))


def _images(subject: Subject, evaluation: Evaluation) -> str:
    _, name = _names(_run(subject).data)
    kind = "held-out training images" if _run(subject).holdout else "test images"
    return f"the {evaluation.images:,} {kind} of {name}"


def _data(subject: Subject) -> str:
    identifier, name = _names(_run(subject).data)
    if subject.record is None:
        return f"Scored on the test images of {name}. Its file does not record its training images."
    recipe = subject.record.result.recipe
    changed = recipe.augment.model_dump(exclude_defaults=True)
    augmentation = ", ".join(_change(key, value) for key, value in changed.items()) or "none"
    held = " but for the sixth that it was scored on" if recipe.run.holdout else ""
    credit = f" {_MNIST_CREDIT}" if identifier == _DATA["mnist"][0] else ""
    return (
        f"Trained on the training images of {name}{held}, scored on images that it never saw. "
        f"Augmentation: {augmentation}.{credit}"
    )


def _change(key: str, value: float | str | bool) -> str:
    """Return a random change of the training images in words."""
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words
    if isinstance(value, str):
        return f"{words} {value}"
    return f"{words} {value:g}" if key.startswith("mixup") or key == "cutout" else f"{words} up to {value:g}"


def _statistics(subject: Subject) -> dict[str, Any] | None:
    accuracies = [record.accuracy for record in subject.repetitions]
    if len(accuracies) < 2:
        return None
    mean, deviation = mean_and_std(accuracies)
    text = f"{100 * mean:.2f} ± {100 * deviation:.2f} % (mean ± standard deviation), 95 % interval of the mean "
    return {"n": len(accuracies), "text": text + _span(mean_interval(accuracies))}


def _classes(subject: Subject, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    return [
        (_plain(name), _percent(row[label] / sum(row)), _span(wilson_interval(row[label], sum(row))))
        for label, (name, row) in enumerate(zip(subject.class_names, evaluation.confusion, strict=True))
        if sum(row)
    ]


def _limits(subject: Subject, evaluation: Evaluation, licence: str | None) -> Iterator[str]:
    names = map(_plain, subject.class_names)
    shares = [(share, name) for share, name in zip(evaluation.class_accuracy, names, strict=True) if share is not None]
    least = min(share for share, _ in shares)
    hardest, *others = sorted(name for share, name in shares if share == least)
    if others:
        yield f"The hardest classes are {hardest} and {len(others)} more; of each it recognises {_percent(least)}."
    else:
        yield f"The hardest class is {hardest}, of which it recognises {_percent(least)}."
    if subject.model.metadata.calibration is None:
        yield "Its probabilities are not calibrated."
    if subject.robustness:
        worst = sorted(subject.robustness.accuracies.items(), key=lambda entry: entry[1])[:3]
        words = ", ".join(f"{name.replace('_', ' ')} {_percent(share)}" for name, share in worst)
        mean = _percent(subject.robustness.mean)
        yield f"Under corruptions that it was not trained on, {mean} are right on average; the worst are {words}."
    else:
        yield "Its accuracy on corrupted images was not measured."
    yield "Its training images have one source and one style: measure it on your own images before you trust it."
    if licence is None:
        yield "No licence was named for it."


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _span(bounds: tuple[float, float]) -> str:
    return f"{100 * bounds[0]:.2f} to {100 * bounds[1]:.2f} %"


def _plain(name: str) -> str:
    """Return a name with everything escaped that means something in Markdown, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", printable(" ".join(name.split())))


def _code(text: str) -> str:
    """Return a text that stays within the backticks of a code span."""
    return printable(text).replace("`", "'")
