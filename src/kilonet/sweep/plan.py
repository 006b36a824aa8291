"""SWEEP.toml: a base recipe, what is searched around it, under which budgets, and for how long. See docs/SWEEP.md."""

import tomllib
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from kilonet.network.cost import network_cost
from kilonet.recipe import SECTIONS, Recipe, load_recipe, section_of
from kilonet.sweep.search_space import Draws, Line, draw_layers, parse_line
from kilonet.utils.errors import KilonetError
from kilonet.utils.files import read_bounded
from kilonet.utils.schema import Schema, first_complaint

_MAXIMUM_BYTES = 64 << 10
_KEPT = {
    "layers": "they are the space's own lines, under 'layers'",
    "input": "the images decide it",
    "max_parameters": "it is given under [budget]",
    "epochs": "it is given under [search]",
    "holdout": "a sweep always chooses by the holdout, never by the test set",
    "data": "errors on different images cannot be compared",
    "threads": "a trial computes with the base recipe's threads",
}
"""Recipe keys that are not searched, and why."""

Count = Annotated[int, Field(ge=1)]
Value = bool | int | float | str


class SearchSection(Schema):
    """How long to search."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(description="candidates to train")
    epochs: Annotated[int, Field(ge=1, le=10_000)] = Field(description="epochs of a trial that is not stopped")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="seed of the candidates that are drawn")
    grace: Count = Field(3, description="epochs before a trial may be stopped; as many as epochs for no stopping")
    reduction: Annotated[float, Field(gt=1, le=100)] = Field(
        3.0, description="at each rung the best one in so many goes on; rungs are at grace times its powers"
    )
    gpus: Annotated[float, Field(ge=0, le=16)] = Field(1.0, description="GPUs a trial takes where there are any")


class BudgetSection(Schema):
    """Hard limits on a candidate; none where nothing is given."""

    max_parameters: Count | None = Field(None, description="trainable parameters")
    max_ram_bytes: Count | None = Field(None, description="peak bytes of activations, as kilonet summary counts them")
    max_macs: Count | None = Field(None, description="multiply-accumulates an image")

    def objection(self, recipe: Recipe) -> str | None:
        """Say which limit a recipe's network is over, or return None."""
        costs = network_cost(recipe.model)
        for name, limit, cost in (
            ("max_parameters", self.max_parameters, costs.parameters),
            ("max_ram_bytes", self.max_ram_bytes, costs.peak_activation_bytes),
            ("max_macs", self.max_macs, costs.macs),
        ):
            if limit is not None and cost > limit:
                return f"{cost:,} is over {name} = {limit:,}"
        return None


class KeySpace(Schema):
    """The values of one recipe key: `choices`, or a range from `low` to `high`, evenly or by logarithm."""

    choices: tuple[Value, ...] | None = Field(None, strict=False, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _is_one_of_both(self) -> "KeySpace":
        ends = (self.low is not None) + (self.high is not None)
        if (self.choices is None) == (ends == 0) or ends == 1 or (self.choices is not None and self.log):
            raise ValueError("give either choices, or low and high and perhaps log = true")
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

    def draw(self, draws: Draws, key: str) -> Value:
        """Decide on a value; a key of whole numbers with whole ends gets a whole number."""
        if self.choices is not None:
            chosen: Value = draws.suggest_categorical(key, self.choices)
            return chosen
        low, high = self.low or 0, self.high or 0
        if is_whole(key):
            return draws.suggest_int(key, int(low), int(high), log=self.log)
        return draws.suggest_float(key, float(low), float(high), log=self.log)


def is_whole(key: str) -> bool:
    """Tell whether a recipe key is a whole number."""
    return SECTIONS[section_of(key)].model_fields[key].annotation is int


class Plan(Schema):
    """A whole SWEEP.toml."""

    recipe: str = Field(description="the base: a packaged recipe or a TOML file")
    out: str = Field(min_length=1, description="the folder of the sweep")
    search: SearchSection
    budget: BudgetSection = BudgetSection()
    layers: Annotated[tuple[str, ...], Field(max_length=100)] = Field((), strict=False, description="see the grammar")
    keys: dict[str, KeySpace] = Field(default_factory=dict, description="recipe keys to search")

    @field_validator("keys")
    @classmethod
    def _keys_may_be_searched(cls, keys: dict[str, KeySpace]) -> dict[str, KeySpace]:
        for key in keys:
            if key in _KEPT:
                raise KilonetError(f"keys.{key}: cannot be searched: {_KEPT[key]}")
            section_of(key)
        return keys

    @model_validator(mode="after")
    def _there_is_something_to_search(self) -> "Plan":
        if not self.layers and not self.keys:
            raise KilonetError("nothing to search: give 'layers', or recipe keys under [keys]")
        if self.search.grace > self.search.epochs:
            raise KilonetError(f"search.grace = {self.search.grace} is over search.epochs = {self.search.epochs}")
        for key, space in self.keys.items():
            for value in space.examples:
                self.base.replace(**{key: value})
        self.lines  # noqa: B018 - reading them is the check
        return self

    @cached_property
    def base(self) -> Recipe:
        """The base recipe with what every trial has: the epochs, the holdout, the budget's parameters, threads."""
        recipe = load_recipe(self.recipe, {"epochs": self.search.epochs, "holdout": True})
        # One thread a trial: processes side by side never wait for each other.
        return recipe.replace(threads=recipe.run.threads or 1).model_copy(update={"about": ""})

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """The lines of the layers' space."""
        return tuple(map(parse_line, self.layers))

    def candidate(self, draws: Draws) -> Recipe:
        """Draw a recipe.

        Raises:
            KilonetError: its layers do not fit together, or it is over a budget.
        """
        changes: dict[str, Any] = {key: space.draw(draws, key) for key, space in self.keys.items()}
        if self.lines:
            changes["layers"] = draw_layers(self.lines, draws, self.base.model.input[0])
        if self.budget.max_parameters is not None:
            changes["max_parameters"] = self.budget.max_parameters
        recipe = self.base.replace(**changes)
        objection = self.budget.objection(recipe)
        if objection:
            raise KilonetError(objection)
        return recipe

    def to_toml(self) -> str:
        """Return the plan as TOML."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def same_search(self, other: "Plan") -> bool:
        """Tell whether another plan differs in nothing but the number of trials."""
        mine, theirs = (plan.model_dump(exclude={"search": {"trials"}}) for plan in (self, other))
        return mine == theirs


def packaged_plans() -> list[str]:
    """Return the names of the plans in the package, sorted."""
    folder = files("kilonet.sweep") / "plans"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_plan(source: str) -> Plan:
    """Read a packaged plan by name or any plan by its path.

    Raises:
        KilonetError: nothing there, not TOML, an unknown key, a line or a value that will not do; names the file.
    """
    packaged = source in packaged_plans()
    path = Path(str(files("kilonet.sweep"))) / "plans" / f"{source}.toml" if packaged else Path(source)
    if not path.is_file():
        raise KilonetError(f"no sweep '{source}': neither a file nor a packaged one ({', '.join(packaged_plans())})")
    try:
        return Plan.model_validate(tomllib.loads(read_bounded(path, _MAXIMUM_BYTES, "a sweep").decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise KilonetError(f"{source}: not a TOML file: {error}") from None
    except ValidationError as error:
        raise KilonetError(f"{source}: {first_complaint(error)}") from None
    except KilonetError as error:
        raise KilonetError(f"{source}: {error}") from None
