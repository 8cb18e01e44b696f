"""The `autotune` command: verbs, exit statuses, and the border where errors become one line."""

from __future__ import annotations

import logging
import sys

import typer

from autotune.cli import certify, compare, export, profile, report, search, show, validate
from xslim.errors import XSlimError

DONE, MISSED, INPUT_FAULT, BROKEN, INTERRUPTED = 0, 1, 2, 3, 75
BY_SIGINT = 130  # what typer makes of a KeyboardInterrupt

app = typer.Typer(
    name="autotune",
    help="Tune feature caching for diffusion transformers: search, measure, export presets.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("search")(search.search)
app.command("profile")(profile.profile)
app.command("compare")(compare.compare)
app.command("certify")(certify.certify)
app.command("show")(show.show)
app.command("report")(report.report)
app.command("validate")(validate.validate)
app.command("export")(export.export)


def main() -> None:
    """Run the command line and end the process with its status."""
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        status = app(standalone_mode=False)
    except XSlimError as error:
        sys.exit(_report(error))
    except typer.Exit as error:
        sys.exit(INTERRUPTED if error.exit_code == BY_SIGINT else error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's usage errors
            error.show()
            sys.exit(INPUT_FAULT)
        logging.getLogger(__name__).exception("the run broke")
        sys.exit(BROKEN)
    sys.exit(status if isinstance(status, int) else DONE)


def _report(error: XSlimError) -> int:
    from xslim.errors import ConfigError

    print(f"autotune: {error}", file=sys.stderr)  # noqa: T201
    return INPUT_FAULT if isinstance(error, ConfigError) else BROKEN


if __name__ == "__main__":
    main()
