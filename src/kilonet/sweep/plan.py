"""SWEEP.toml: the base recipe, the search space around it, the budgets and the length of the search.

docs/SWEEP.md describes its keys.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from kilonet.evaluation.metrics import Metric
from kilonet.recipe import SECTIONS, Recipe, load_recipe, section_of
from kilonet.sweep.costs import Cost, Target, costs_of
from kilonet.sweep.search_space import SpaceLine, Suggester, draw_layers, parse_line
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_toml
from kilonet.utils.schema import Schema, first_complaint

_MAXIMUM_BYTES = 64 << 10
_NOT_SEARCHED = {
    "layers": "give its search space as 'layers' at the top of the file",
    "input": "the data set determines it",
    "max_parameters": "give it under [budget]",
    "epochs": "give it under [search]",
    "holdout": "a sweep always scores the holdout, never the test set",
    "data": "errors on different images cannot be compared",
    "threads": "every trial uses the threads of the base recipe",
}
"""Recipe keys that cannot be searched, and why."""

Count = Annotated[int, Field(ge=1)]
Value = bool | int | float | str


class SearchSection(Schema):
    """The length of the search and its early stopping."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(description="candidates to train")
    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(description="epochs of a trial that is not stopped early")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="random seed of the candidates")
    grace: Count = Field(3, description="epochs before a trial may be stopped; equal to epochs: none is stopped")
    reduction: Annotated[float, Field(gt=1, le=100)] = Field(
        3.0, description="the best trial in so many goes on at each rung; rungs are at grace times its powers"
    )
    objective: Metric = Field("accuracy", description="what a trial is better by, on the holdout, beside its costs")
    costs: tuple[Cost, ...] = Field(
        ("parameters",),
        strict=False,
        description="what is minimised beside the error; early stopping groups by the first; [] for the error alone",
    )
    sampler: Literal["tpe", "evolution"] = Field(
        "tpe",
        description="what draws trials: a model of good values (TPE), or moves on the layers of earlier trials",
    )
    population: Annotated[int, Field(ge=2, le=100_000)] = Field(
        50, description="evolution: so many trials are drawn at first, and so many of the youngest may be parents"
    )
    sample: Annotated[int, Field(ge=1, le=100_000)] = Field(
        10,
        description="evolution: of so many of these, or of all if they are fewer, the best is the parent",
    )
    inherit: bool = Field(True, description="evolution: whether training begins with the parent's weights")
    gpus: Annotated[float, Field(ge=0, le=16)] = Field(1.0, description="GPUs that a trial on the device cuda takes")

    @field_validator("costs")
    @classmethod
    def _each_cost_once(cls, costs: tuple[Cost, ...]) -> tuple[Cost, ...]:
        if len(set(costs)) < len(costs):
            raise ValueError(f"the same cost twice: {', '.join(costs)}")
        return costs

    @model_validator(mode="after")
    def _keys_are_of_the_sampler(self) -> "SearchSection":
        if self.sampler == "tpe":
            for key in ("population", "sample", "inherit"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} is for sampler = 'evolution'")
        return self


class BudgetSection(Schema):
    """Hard limits on a candidate; a limit that is not given does not apply."""

    max_parameters: Count | None = Field(None, description="trainable parameters")
    max_ram_bytes: Count | None = Field(None, description="bytes of RAM in C, as kilonet summary states them")
    max_macs: Count | None = Field(None, description="multiply-accumulates an image")
    target: Target = Field("cortex-m0", description="the microcontroller of the following limits, and of such costs")
    max_instructions: Count | None = Field(
        None, description="instructions an image, of an AVR cycles, as kilonet summary --target estimates them"
    )
    max_flash_bytes: Count | None = Field(None, description="bytes of flash with code, by the same estimate")

    def objection(self, recipe: Recipe) -> str | None:
        """Return which limit a recipe's network exceeds, as text, or None."""
        for name, cost in costs_of(recipe.model, self.target).items():
            limit: int | None = getattr(self, f"max_{name}")
            if limit is not None and cost > limit:
                return f"{cost:,} is over max_{name} = {limit:,}"
        return None


class KeySpace(Schema):
    """The values of one recipe key: `choices`, or a range from `low` to `high`, uniform or log-uniform."""

    choices: tuple[Value, ...] | None = Field(None, strict=False, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _is_choices_or_range(self) -> "KeySpace":
        ends = (self.low is not None) + (self.high is not None)
        if (self.choices is None) == (ends == 0) or ends == 1 or (self.choices is not None and self.log):
            raise ValueError("give either choices, or low and high with an optional log = true")
        if self.low is not None and self.high is not None:
            if self.low > self.high:
                raise ValueError("low is above high")
            if self.log and self.low <= 0:
                raise ValueError("log = true needs a low above zero")
        return self

    @property
    def examples(self) -> tuple[Any, ...]:
        """All choices, or the ends of the range."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def draw(self, suggester: Suggester, key: str) -> Value:
        """Draw a value: an integer for an integer key, else a float."""
        if self.choices is not None:
            chosen: Value = suggester.suggest_categorical(key, self.choices)
            return chosen
        low, high = self.low or 0, self.high or 0
        if is_integer(key):
            return suggester.suggest_int(key, int(low), int(high), log=self.log)
        return suggester.suggest_float(key, float(low), float(high), log=self.log)


def is_integer(key: str) -> bool:
    """Return whether a recipe key takes an integer."""
    return SECTIONS[section_of(key)].model_fields[key].annotation is int


class Plan(Schema):
    """The content of a SWEEP.toml."""

    recipe: str = Field(description="the base: a packaged recipe or a TOML file")
    out: str = Field(min_length=1, description="the folder of the sweep")
    search: SearchSection
    budget: BudgetSection = BudgetSection()
    layers: Annotated[tuple[str, ...], Field(max_length=100)] = Field((), strict=False, description="see docs/SWEEP.md")
    keys: dict[str, KeySpace] = Field(default_factory=dict, description="recipe keys to search")

    @field_validator("keys")
    @classmethod
    def _keys_may_be_searched(cls, keys: dict[str, KeySpace]) -> dict[str, KeySpace]:
        for key in keys:
            if key in _NOT_SEARCHED:
                raise KilonetError(f"keys.{key}: cannot be searched: {_NOT_SEARCHED[key]}")
            section_of(key)
        return keys

    @model_validator(mode="after")
    def _there_is_something_to_search(self) -> "Plan":
        if not self.layers and not self.keys and self.search.sampler == "tpe":
            raise KilonetError("nothing to search: give 'layers', or recipe keys under [keys]")
        search = self.search
        if search.sampler == "evolution" and search.population >= search.trials:
            raise KilonetError(
                f"search.population = {search.population} leaves none of search.trials = {search.trials} to be drawn "
                "from earlier ones; lower the population, or raise the trials"
            )
        if self.search.grace > self.search.epochs:
            raise KilonetError(f"search.grace = {self.search.grace} is over search.epochs = {self.search.epochs}")
        for key, space in self.keys.items():
            for value in space.examples:
                self.base.replace(**{key: value})
        self.lines  # noqa: B018 - parsing them checks them
        return self

    @cached_property
    def base(self) -> Recipe:
        """The base recipe with the settings that all trials share: epochs, holdout, threads."""
        recipe = load_recipe(self.recipe, {"epochs": self.search.epochs, "holdout": True})
        # One thread a trial unless the recipe says otherwise: trials in parallel never wait for each other.
        return recipe.replace(threads=recipe.run.threads or 1).model_copy(update={"about": ""})

    @cached_property
    def lines(self) -> tuple[SpaceLine, ...]:
        """The search space of the layers, parsed."""
        return tuple(map(parse_line, self.layers))

    def candidate(self, suggester: Suggester, layers: Sequence[str] | None = None) -> Recipe:
        """Draw a recipe.

        Args:
            suggester: draws its values.
            layers: the texts of its layers, if they are not to be drawn.

        Raises:
            KilonetError: the layers do not fit together, or the network is over a budget.
        """
        changes: dict[str, Any] = {key: space.draw(suggester, key) for key, space in self.keys.items()}
        if layers is not None:
            changes["layers"] = tuple(layers)
        elif self.lines:
            changes["layers"] = draw_layers(self.lines, suggester, self.base.model.input[0])
        if self.budget.max_parameters is not None:
            changes["max_parameters"] = self.budget.max_parameters
        recipe = self.base.replace(**changes)
        objection = self.budget.objection(recipe)
        if objection:
            raise KilonetError(objection)
        return recipe

    def first_cost(self, recipe: Recipe) -> int:
        """Return the cost by which early stopping groups trials: the same for all where the error alone counts."""
        return next(iter(self.costs_of(recipe)), 0)

    def costs_of(self, recipe: Recipe) -> list[int]:
        """Return what is minimised beside the error for a recipe's network, in the order of `search.costs`."""
        costs = costs_of(recipe.model, self.budget.target)
        return [costs[cost] for cost in self.search.costs]

    def to_toml(self) -> str:
        """Return the plan as TOML."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def with_search(self, **changes: Any) -> "Plan":
        """Return the plan with other values of `[search]`; None leaves a value as it is.

        Raises:
            KilonetError: a value is wrong.
        """
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            # First alone, so that a wrong value is named within its section.
            search = SearchSection.model_validate(self.search.model_dump() | given)
        except ValidationError as error:
            raise KilonetError(f"search.{first_complaint(error)}") from None
        return Plan.model_validate(self.model_copy(update={"search": search}).model_dump())

    def other_settings(self, other: "Plan") -> list[str]:
        """Return the keys of SWEEP.toml in which another plan differs, but for the folder and the number of trials."""
        mine, theirs = (plan.model_dump(exclude={"out": True, "search": {"trials"}}) for plan in (self, other))
        changed = []
        for section, values in mine.items():
            if isinstance(values, dict):
                keys = dict.fromkeys([*values, *theirs[section]])
                changed += [f"{section}.{key}" for key in keys if values.get(key) != theirs[section].get(key)]
            elif values != theirs[section]:
                changed.append(section)
        return changed


def packaged_plans() -> list[str]:
    """Return the names of the plans in the package, sorted."""
    folder = files("kilonet.sweep") / "plans"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_plan(source: str) -> Plan:
    """Load a packaged plan by its name or any other plan by its path.

    Raises:
        KilonetError: there is no such file, it is not TOML, or a key, a value or a line of the search space is wrong;
            names the file.
    """
    packaged = source in packaged_plans()
    path = Path(str(files("kilonet.sweep"))) / "plans" / f"{source}.toml" if packaged else Path(source)
    if not path.is_file():
        raise KilonetError(f"no sweep '{source}': neither a file nor a packaged plan ({', '.join(packaged_plans())})")
    table = read_toml(path, _MAXIMUM_BYTES, "a sweep", source)
    try:
        return Plan.model_validate(table)
    except ValidationError as error:
        raise KilonetError(f"{source}: {first_complaint(error)}") from None
    except KilonetError as error:
        raise KilonetError(f"{source}: {error}") from None
