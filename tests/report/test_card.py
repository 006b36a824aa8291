"""The model card: what it says, and that the Hub's own library reads it.

huggingface_hub's `validate` asks the Hub itself, over the network; here its parsers, which need none, are the check.
"""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from helpers import GOLDEN, Hide, command, tiny_recipe
from kilonet.data.listing import FASHION_NAMES
from kilonet.evaluation.scoring import evaluate
from kilonet.evaluation.statistics import wilson_interval
from kilonet.models.model import load_model
from kilonet.report.card import card_markdown
from kilonet.report.sources import collect
from kilonet.report.subject import Subject
from kilonet.training.run_folder import Run
from kilonet.training.train import fit
from report_pages import scored_once

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def folder_of(run: Run) -> Path:
    assert run.folder is not None
    return run.folder


@pytest.fixture(scope="module")
def published(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is ready to publish."""
    from kilonet.cli import main

    out = tmp_path_factory.mktemp("card") / "best"
    evidence = ["--results", str(RESULTS / "best.json"), "--corruptions", str(RESULTS / "corruptions-best.json")]
    with scored_once(shared_folder):
        assert main(["card", "best", "--out", str(out), *evidence]) == 0
    return out


def test_the_card_of_best_is_the_golden_one(published: Path) -> None:
    assert (published / "README.md").read_text(encoding="utf-8") == (GOLDEN / "card.md").read_text(encoding="utf-8")


def test_the_hubs_library_reads_it(published: Path) -> None:
    data = metadata_load(published / "README.md")
    assert data is not None
    assert set(data) >= {"library_name", "license", "pipeline_tag", "tags", "datasets", "metrics", "model-index"}
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "best"
    by_type = {(result.dataset_type, result.metric_type): result for result in results}
    accuracy = by_type["ylecun/mnist", "accuracy"]
    assert accuracy.metric_value == 0.9956
    assert accuracy.metric_args is not None
    assert accuracy.metric_args["images"] == 10_000
    assert accuracy.metric_args["interval_95"] == pytest.approx(wilson_interval(9956, 10_000), abs=1e-6)
    robustness = json.loads((RESULTS / "corruptions-best.json").read_text())
    assert by_type["mnist_c", "accuracy"].metric_value == robustness["mean"]
    assert ModelCard.load(published / "README.md").data.to_dict() == data
    assert data["license"] == "mit"


def test_the_hash_is_that_of_the_file_beside_it(published: Path) -> None:
    content = (published / "model.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert f"| `model.safetensors` | {len(content):,} | `{digest}` |" in (published / "README.md").read_text()
    assert load_model(published / "model.safetensors").sha256 == digest == load_model("best").sha256


def test_a_runs_card_agrees_with_its_result(finished: Run) -> None:
    text = card_markdown(collect([str(folder_of(finished))]), None)
    result = finished.result
    low, high = (100 * bound for bound in result.interval)
    assert f"{100 * result.final.test_accuracy:.2f} % | {low:.2f} to {high:.2f} % |" in text
    assert "not calibrated" in text
    assert "No licence was named" in text
    assert "license" not in yaml.safe_load(text.split("---")[1])
    assert "Final epoch over" not in text
    data = Path(result.recipe.run.data)
    assert str(data.parent) not in text, "where the data lie is nobody's business"
    assert f'data = "{data.name}"' in text


def test_a_card_names_nobody_s_folders(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    assert subject.record is not None
    recipe = tiny_recipe("/home/ann/cats", negatives="/home/ann/street/", calibration=0.1)
    recipe = recipe.replace(teacher=["/home/ann/big.toml", "C:\\runs\\wide", "best"])
    record = type(subject.record)("x", subject.record.result.model_copy(update={"recipe": recipe}))
    text = card_markdown(Subject("x", subject.model, subject.images, record), None)
    assert not re.search("ann|C:", text)
    for words in ('data = "cats"', 'negatives = "street"', '"big.toml"', '"wide"', '"best"'):
        assert words in text


def test_unequal_classes_are_counted_alike_and_the_hardest_is_named(finished: Run) -> None:
    """Also a class of which it recognises nothing."""
    subject = collect([str(folder_of(finished))])
    predicted = subject.model.logits(subject.images.pixels).argmax(1)
    labels = torch.where(predicted == predicted.mode().values, predicted, (predicted + 1) % 10)
    images = replace(subject.images, labels=labels)
    found = evaluate(subject.model, images)
    assert 0.0 in found.class_accuracy
    text = card_markdown(replace(subject, images=images, record=None), None)
    worst = sum(share == 0 for share in found.class_accuracy)
    assert worst > 1
    assert f" and {worst - 1} more; of each it recognises 0.00 %." in text
    assert (
        f"| balanced accuracy, the mean of the classes' accuracies | {100 * found.balanced_accuracy:.2f} % | |" in text
    )
    _, results = model_index_to_eval_results(yaml.safe_load(text.split("---\n")[1])["model-index"])
    by_type = {result.metric_type: result for result in results}
    assert by_type["balanced_accuracy"].metric_value == pytest.approx(found.balanced_accuracy, abs=1e-6)
    assert by_type["f1"].metric_value == pytest.approx(found.macro_f1, abs=1e-6)
    assert by_type["f1"].metric_args == {"average": "macro"}


def test_a_holdout_is_not_called_a_test_set(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    assert subject.record is not None
    recipe = tiny_recipe(subject.record.result.recipe.run.data, holdout=True)
    record = type(subject.record)("x", subject.record.result.model_copy(update={"recipe": recipe}))
    text = card_markdown(Subject("x", subject.model, subject.images, record), None)
    assert "held-out training images" in text
    assert metadata_of(text)["model-index"][0]["results"][0]["dataset"]["split"] == "train"


def metadata_of(text: str) -> dict[str, list[dict[str, list[dict[str, dict[str, str]]]]]]:
    found: dict[str, list[dict[str, list[dict[str, dict[str, str]]]]]] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.mark.parametrize("name", ["no", "1.50", "a: b", "--- x", "'\"", "ünï", "{{ 7 * 7 }}"])
def test_any_name_is_read_back(finished: Run, name: str) -> None:
    subject = collect([str(folder_of(finished))])
    metadata = subject.model.metadata.model_copy(update={"names": tuple(f"{name}|{part}" for part in FASHION_NAMES)})
    text = card_markdown(Subject(name, subject.model.with_metadata(metadata), subject.images), "mit")
    assert ModelCard(text).data.to_dict()["model-index"][0]["name"] == name
    rows = [line for line in text.splitlines() if line.startswith("| accuracy on class")]
    labels = subject.images.labels.unique()
    assert len(rows) == len(labels)
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)


def test_the_metrics_are_measured_anew(finished: Run) -> None:
    subject = collect([str(folder_of(finished))])
    found = evaluate(subject.model, subject.images)
    assert f"| cross-entropy, nats | {found.loss:.4f} | |" in card_markdown(subject, None)


def test_the_command_writes_one_file_or_a_folder(
    finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = folder_of(finished)
    answer = command(capsys, "card", run, "--license", "apache-2.0", "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out) == {"files": ["README.md"], "model_sha256": finished.model.sha256}
    assert metadata_load("README.md")["license"] == "apache-2.0"  # type: ignore[index]
    assert command(capsys, "card", run).status == 0, "a card of ours is written anew"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md"]
    shutil.rmtree(tmp_path / "folder", ignore_errors=True)
    assert "folder/README.md, folder/model.safetensors" in command(capsys, "card", run, "--out", "folder").out


def test_bad_input_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# mine")
    (tmp_path / "taken").write_text("a file")
    command(capsys, "card", "best").refused("README.md", "--out")
    command(capsys, "card", "best", "--out", "taken").refused("taken")
    command(capsys, "card", "no-such", "--out", "x.md").refused("no-such")
    command(capsys, "card", "best", "--out", "card.txt").refused("card.txt", "card.md", "folder")
    command(capsys, "card", "baseline", "--out", "x.md", "--results", RESULTS / "best.json").refused("none of its runs")
    for licence in ("", "a\nb: c", "-mit", "\u00df"):
        command(capsys, "card", "best", "--out", "x.md", f"--license={licence}").refused("--license", "no identifier")
    assert (tmp_path / "README.md").read_text() == "# mine"


def test_a_file_in_the_place_of_the_folder_is_refused_before_the_model_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kilonet.report.writing.collect", lambda *_: pytest.fail("scored"))
    (tmp_path / "taken").write_text("a file")
    command(capsys, "card", "best", "--out", tmp_path / "taken").refused("taken")


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hide: Hide
) -> None:
    hide("huggingface_hub", "kilonet.report.card")
    command(capsys, "card", "best", "--out", tmp_path / "card.md").refused("huggingface_hub", "'.[card]'")
    assert not list(tmp_path.iterdir())


def test_names_and_environments_are_text(finished: Run) -> None:
    """A run folder that somebody sends holds names and an environment that are Markdown and HTML."""
    nasty = "<img src=x onerror=alert(1)> [a](javascript:b) `c | *d* &lt;e \x1b[2J"
    subject = collect([str(folder_of(finished))])
    assert subject.record
    environment = finished.result.environment.model_copy(
        update=dict.fromkeys(("kilonet", "python", "torch", "processor", "precision", "engine", "commit"), nasty)
    )
    record = replace(subject.record, result=finished.result.model_copy(update={"environment": environment}))
    metadata = subject.model.metadata.model_copy(update={"names": (nasty, *"123456789")})
    text = card_markdown(
        replace(subject, name=nasty, record=record, model=subject.model.with_metadata(metadata)), nasty
    )
    assert ModelCard(text).data.to_dict()["model-index"][0]["name"] == nasty
    body = text.split("\n---\n", 1)[1]
    body = body.replace("\\`", "")
    assert body.count("`") % 2 == 0
    assert "\x1b" not in body
    for meaning in ("<img", "](javascript", "&lt;"):
        assert not re.search(r"(?<!\\)" + re.escape(meaning), re.sub("`[^`\n]*`", "", body)), meaning


def test_another_model_is_not_replaced(finished: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder_of(finished)
    theirs, foreign, own = tmp_path / "theirs", tmp_path / "foreign", tmp_path / "own"
    shutil.copytree(run, theirs)
    (theirs / "model.safetensors").write_bytes(load_model("best").content)
    foreign.mkdir()
    (foreign / "model.safetensors").write_text("x")
    for folder in (theirs, foreign):
        before = (folder / "model.safetensors").read_bytes()
        command(capsys, "card", run, "--out", folder).refused("model.safetensors is another model", "--out")
        assert (folder / "model.safetensors").read_bytes() == before
        assert not (folder / "README.md").exists()
    # A later model takes the place of an earlier one in a folder that holds nothing but a card.
    assert command(capsys, "card", "mcu", "--out", own).status == 0
    assert command(capsys, "card", run, "--out", own).status == 0
    assert (own / "model.safetensors").read_bytes() == finished.model.content


def test_runs_of_several_recipes_have_no_card(
    finished: Run, small_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder_of(finished), tmp_path / "first")
    fit(tiny_recipe(small_folder, epochs=1), out=tmp_path / "second")
    out = tmp_path / "card.md"
    command(capsys, "card", tmp_path, "--out", out).refused(f"{tmp_path}", "several recipes")
    assert not out.exists()
