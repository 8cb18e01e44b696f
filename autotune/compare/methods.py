"""The registry of methods: the recipes of a folder, chosen by name and by the model's family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autotune.compare.recipe import Recipe
from xslim.errors import ConfigError
from xslim.policy.document import suggest

OWN = "autotune"  # the method of our tuned presets; no recipe
FOLDER = Path("experiments/methods")


def methods_folder(experiment: Path) -> Path:
    """Where the recipes are: in `methods` beside the experiment's file, else in `experiments/methods`.

    Raises:
        ConfigError: neither is there.
    """
    for folder in (experiment.parent / "methods", FOLDER):
        if folder.is_dir():
            return folder
    raise ConfigError(
        f"no folder of recipes: neither {experiment.parent / 'methods'} nor {FOLDER} is there; copy "
        "`experiments/methods` of the repository beside the experiment"
    )


def load_recipes(folder: Path) -> dict[str, Recipe]:
    """Read all recipes of a folder: method -> recipe, in the order of their names.

    Raises:
        ConfigError: a file is at fault, or its name is not its method's.
    """
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        recipe = Recipe.load(path)
        if recipe.method != path.stem:
            raise ConfigError(
                f"got {recipe.method!r}; name it as its file, {path.stem!r}", key="method", source=str(path)
            )
        found[recipe.method] = recipe
    return found


def check_names(known: Mapping[str, Recipe], names: Sequence[str] | None) -> None:
    """Refuse methods that no recipe describes.

    Raises:
        ConfigError: names the nearest.
    """
    for name in names or ():
        if name not in known and name != OWN:
            raise ConfigError(f"got {name!r}; {suggest(name, [*known, OWN])}", key="compare.methods")


def choose(known: Mapping[str, Recipe], names: Sequence[str] | None, family: str) -> list[Recipe]:
    """Return the recipes that a comparison runs, as they are for a family of models.

    Args:
        known: as of `load_recipes`.
        names: methods; None for all that apply to the family. Fewer steps are always among them.
        family: of the model.

    Raises:
        ConfigError: a method is unknown, or does not apply to the family.
    """
    check_names(known, names)
    wanted = list(known) if names is None else [name for name in names if name != OWN]
    for name in wanted:
        recipe = known[name]
        if names is not None and recipe.families and family not in recipe.families:
            raise ConfigError(
                f"got {name!r}, which is for {', '.join(recipe.families)}; the model is a {family}",
                key="compare.methods",
            )
    chosen = [known[name] for name in dict.fromkeys(["fewer-steps", *wanted]) if name in known]
    return [r.of_family(family) for r in chosen if not r.families or family in r.families]
