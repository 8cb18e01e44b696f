"""Copy the tier presets of a finished search into the package, where `xslim.load_preset` finds them by name.

python -m experiments.ship_presets dit-digits
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xslim.policy.preset import load_preset, save_preset

PACKAGE = Path("xslim/policy/presets")


def main() -> None:
    """Command line entry."""
    model = sys.argv[1] if len(sys.argv) > 1 else "dit-digits"
    run = Path("runs/presets") / model
    tiers = json.loads((run / "summary.json").read_text())["tiers"]
    for old in (PACKAGE / model).glob("*.yaml"):
        old.unlink()
    for tier, member in tiers.items():
        preset = load_preset(run / member["preset"])
        save_preset(preset, PACKAGE / model / f"{tier}.yaml")
        print(f"{preset.name}: {member['speedup']:.2f}x, {preset.quality.holdout['psnr_p5']['value']:.1f} dB")


if __name__ == "__main__":
    main()
