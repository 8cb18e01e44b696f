"""The registry of methods: the recipes of a folder, chosen by name and by the model's family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from autotune.compare.recipe import FEWER, OWN, Recipe
from autotune.scoring.geometry import geometry_of
from xslim.errors import ConfigError
from xslim.policy.document import suggest
from xslim.runtime.adapters import ADAPTERS

FOLDER = Path("experiments/methods")


def methods_folders(experiment: Path) -> list[Path]:
    """Where the recipes are: `experiments/methods`, and `methods` beside the experiment's file.

    Raises:
        ConfigError: neither is there.
    """
    found = [folder for folder in (FOLDER, experiment.parent / "methods") if folder.is_dir()]
    if not found:
        raise ConfigError(
            f"no folder of recipes: neither {FOLDER} nor {experiment.parent / 'methods'} is there; copy "
            "`experiments/methods` of the repository beside the experiment"
        )
    return found


def load_recipes(*folders: Path) -> dict[str, Recipe]:
    """Read all recipes of some folders: method -> recipe; of two of the same name the last folder's counts.

    Raises:
        ConfigError: a file is at fault, or its name is not its method's.
    """
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*.yaml"))):
        recipe = Recipe.load(path)
        _check_families(recipe, str(path))
        found[recipe.method] = recipe
    return found


def _check_families(recipe: Recipe, source: str) -> None:
    """Refuse a family of models that no adapter is for: the recipe would never apply."""
    known = {adapter.family for adapter in ADAPTERS.values()}
    for key, names in (("families", recipe.families), ("by_family", tuple(recipe.by_family))):
        for name in names:
            if name not in known:
                raise ConfigError(f"got {name!r}; {suggest(name, known)}", key=key, source=source)


def check_names(known: Mapping[str, Recipe], names: Sequence[str] | None, source: str | None = None) -> None:
    """Refuse methods that no recipe describes.

    Raises:
        ConfigError: names the nearest.
    """
    for name in names or ():
        if name not in known and name != OWN:
            raise ConfigError(
                f"got {name!r}; {suggest(name, [*known, OWN])}", key="compare.methods", source=source
            )


def check_families(
    known: Mapping[str, Recipe], names: Sequence[str] | None, family: str, source: str | None = None
) -> None:
    """Check that methods apply to a family of models, the known ones among them.

    Raises:
        ConfigError: one does not.
    """
    for name in names or ():
        recipe = known.get(name)
        if recipe is not None and recipe.families and family not in recipe.families:
            raise ConfigError(
                f"got {name!r}, which is for {', '.join(recipe.families)}; the model is a {family}",
                key="compare.methods",
                source=source,
            )


def family_of(model_path: str) -> str | None:
    """The family of a local or well-known model, from its configs alone; None of another one."""
    try:
        geometry = geometry_of(model_path)
    except ConfigError:  # a pipeline without an autoencoder, say
        return None
    if geometry is None or geometry.transformer not in ADAPTERS:
        return None
    return ADAPTERS[geometry.transformer].family


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
    check_families(known, names, family)
    wanted = list(known) if names is None else [name for name in names if name != OWN]
    if FEWER not in known:
        raise ConfigError(f"no recipe {FEWER!r}, which all is compared with; copy it from the repository")
    chosen = [known[name] for name in dict.fromkeys([FEWER, *wanted])]
    return [r.of_family(family) for r in chosen if not r.families or family in r.families]
