"""Write REPRODUCTION.md, README's measurement and its picture from the committed runs.

Arguments: folders whose finished runs are committed first.
"""

import sys

from csnb.pages.claims import findings, report
from csnb.pages.committed import take
from csnb.pages.evidence import Evidence
from csnb.pages.readme import PICTURE, measured, picture, readme
from csnb.paths import CHECKOUT

if __name__ == "__main__":
    for runs in sys.argv[1:]:
        print(f"{runs}: {len(take(runs))} runs taken over")
    evidence, file = Evidence(), CHECKOUT / "README.md"
    (CHECKOUT / "REPRODUCTION.md").write_text(report(evidence), encoding="utf-8")
    said = measured(evidence.curves, evidence.guarantees, evidence.offsets, findings(evidence))
    file.write_text(readme(file.read_text(encoding="utf-8"), said), encoding="utf-8")
    figure = picture(evidence.curves[0]).figure
    figure.savefig(PICTURE, dpi=110, bbox_inches="tight", metadata={"Software": None})
