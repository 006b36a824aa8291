"""`kilonet recipes`."""

import argparse
import json

from kilonet.cli.flags import Parser, add_json_flag


def add_flags(parser: Parser) -> None:
    add_json_flag(parser)


def run(flags: argparse.Namespace) -> int:
    from kilonet.recipe import load_recipe, packaged_recipes

    recipes = {name: load_recipe(name) for name in packaged_recipes()}
    if flags.json:
        print(json.dumps({name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}))
        return 0
    width = max(map(len, recipes))
    digits = max(len(f"{recipe.model.parameters:,}") for recipe in recipes.values())
    for name, recipe in recipes.items():
        print(f"{name:<{width}} {recipe.model.parameters:>{digits},} parameters  {recipe.about}")
    return 0
