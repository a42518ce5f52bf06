"""Tables II to IV as a notebook shows them: published and measured, section by section."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from csnb import figures
from csnb.markdown import signed_ends
from csnb.paper import pairs, tables
from csnb.paper.readings import Text, reading
from csnb.runs import read_hits, read_run, read_runs
from csnb.runs.frames import read_answers

HEADINGS = {  # of `Table.show`, with what stands above each section
    "printed": """## What the paper printed

Accuracy of the test images of class $p$, by the model that protects $p$. Bold as in the paper.""",
    "measured": """## What we measured

The same cells, mean over the trainings where there are several, with 95 % intervals: Wilson's of
drawing these test images, n of them, or wider where several trainings say so; one says nothing of
others. FGSM, PGD, MIA and BIA
climb the cross-entropy: "float32" by the gradient that the paper's library computes, which loses
the true class where the network leads by 17 logits or more, the rows without by an exact one.""",
    "gradients": """## What the paper's gradient hides

Mean accuracy over the cells that were attacked with both gradients, and the cell where they differ
most: what float32 adds is no protection.""",
    "audits": """## What a stronger attacker leaves

Least accuracy of the class under the attacks above that keep to the ball, and what is left under
the worst of AutoAttack's four, long PGD on margins, transfer and attacks without gradients, on the
images that [audit](audit.ipynb) drew: claimed and audited.""",
    "differences": """## Side by side

Ours, by float32 gradients as the paper's library has them, less the published accuracy; "=": the
95 % interval of the difference (Newcombe) holds 0: the cell is compatible with drawing n images;
blank: not run.""",
    "verdicts": "The verdicts, counted:",
    "agreement": "How many published values lie inside our intervals, and do the cells rank alike?",
    "averages": "Means over the cells that have both values:",
    "orderings": """## Does one method protect better than another?

In how many classes, and of ours trainings, the first of a pair is above the second, below it, or
neither: of the published accuracies by Newcombe's interval of the difference, of ours by McNemar's
exact test, since both networks met the same images, at 5 % after Holm's correction for all
comparisons of one gradient. ADV is adversarial training without costs or fuzziness, which the
paper's tables leave out. These are statements about the networks that were trained, not about all
trainings; those are below.""",
    "trainings": """Mean difference in accuracy over classes that have the same seeds - all classes,
and those with every seed where these are fewer -, with its 95 % interval over images and trainings
(Student's, with Satterthwaite's degrees of freedom; of one training over images alone, for it says
nothing of others); not corrected for so many rows:""",
    "tests": "The largest differences on the same images, by exact gradients:",
    "findings": "In words, from our runs:",
    "clean": """## The other side of protection

On clean images: the average accuracy of all classes, that less STD's of the same seed, that of the
worst class, and the share of other classes' images that are taken for the protected one (by STD and
ADV for each class that others protect): means over the seeds of each class, then over classes.""",
    "oddities": """## The published numbers among themselves

Cells that do not fit each other, whatever we measure.""",
    "cells": "## Every cell",
}
OF_PUBLISHED = ("printed", "differences", "verdicts", "agreement", "averages", "oddities")
NO_RUN = "*No run of this table is there.*"
MOST = 12  # rows of a table of the largest differences
Shown = Styler | Text | plt.Axes


@dataclass(frozen=True)
class Table:
    """One of the paper's tables, or another data set laid out as one, beside our runs of it.

    ``dataset``: whose. ``folder``: holds runs. ``ids``: the runs of the whole table, there or not,
    such as `csnb.batch.run_ids` of a sweep. Each method shows one section; `show` shows all.
    """

    dataset: str
    folder: str | Path
    ids: Collection[str]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Of the table's runs that are done (see `read_runs`)."""
        return read_runs(self.folder, self.ids)

    @cached_property
    def folders(self) -> list[Path]:
        """Of these runs."""
        return [Path(self.folder, str(run)) for run in self.scores["run"].unique()]

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """What each of these runs says of itself (see `read_run`)."""
        return [read_run(folder) for folder in self.folders]

    @cached_property
    def comparison(self) -> pd.DataFrame:
        """Every cell, published and ours (see `compare`)."""
        return tables.compare(self.scores, self.dataset)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """Pairs of methods on the same images (see `csnb.paper.paired`)."""
        return pairs.paired(read_hits(self.folders), self.dataset)

    @cached_property
    def alarms(self) -> pd.DataFrame:
        """The share of other classes' clean images that are taken for a class, by training.

        Of the class that a run protects; of a run that knows none, each class that another one
        protects. Columns: method, protected_class, seed, value.
        """
        columns = ["run", "method", "protected_class", "seed"]
        runs = self.scores[columns].drop_duplicates("run").astype(dict.fromkeys(columns[:3], str))
        free = runs["method"].isin(tables.UNPROTECTING)
        known, rows = sorted(set(runs["protected_class"][~free])), []
        for (run, method, own, seed), none in zip(runs.to_numpy(), free, strict=True):
            answers = read_answers(Path(self.folder, run))
            for p in known if none and known else [own]:
                inside = np.array([int(each) for each in p.split("+")])
                others = ~np.isin(answers.labels, inside)
                value = np.isin(answers.clean[others], inside).mean()
                rows.append([method, p, seed, value])
        return pd.DataFrame(rows, columns=[*columns[1:], "value"])

    @property
    def there(self) -> str:
        """How many of the runs are there: "11 of 32"."""
        return f"{self.scores['run'].nunique()} of {len(self.ids)}"

    @property
    def known(self) -> bool:
        """Whether the paper has numbers of this data set."""
        return bool(self.comparison["published"].notna().any())

    def made(self) -> Styler:
        """Where our numbers come from: network, epochs, code, machine, threads, seeds and hours."""
        results = self.results
        seconds = sum(sum(result["seconds"].values()) for result in results)
        said = {"runs": [self.there], "hours, runs added up": [f"{seconds / 3600:.1f}"]}
        for key in ("model", "epochs"):
            said[key] = [result["parameters"][key] for result in results]
        for key in ("commit", "machine", "threads"):
            said[key] = [result["provenance"][key] for result in results]
        said["csnb's numerics"] = [result["numerics"] for result in results]
        said["seeds"] = list(self.scores["seed"].unique())
        texts = {key: ", ".join(sorted(set(map(str, values)))) for key, values in said.items()}
        return figures.table(pd.Series(texts, name="of our runs"))

    def printed(self) -> Shown:
        """The published accuracies as the paper lays them out (see `csnb.paper.printed`)."""
        return tables.printed(self.comparison) if self.known else self._nothing_published()

    def measured(self) -> Styler:
        """Ours in the same layout with intervals."""
        return figures.table(tables.measured(self.comparison).replace(r" \[", "\n[", regex=True))

    def gradients(self) -> Shown:
        """Float32 gradients beside exact ones (see `csnb.paper.gradients`)."""
        found = tables.gradients(self.comparison)
        if found.empty:
            return Text("*No run was attacked with both gradients.*")
        return figures.table(found, precision=3)

    def audits(self) -> Shown:
        """Claimed and audited (see `csnb.paper.tables.audits`)."""
        found = tables.audits(self.scores)
        return figures.table(found) if len(found) else Text("*No run of this table was audited.*")

    def differences(self) -> Shown:
        """The heatmap of ours less the published accuracies."""
        if not self.known:
            return self._nothing_published()
        if self.scores.empty:
            return Text(NO_RUN)
        title = figures.caption(self.dataset, f"{self.there} runs")
        return figures.differences(
            self.comparison, title=f"{title}: ours less the paper's accuracy"
        )

    def verdicts(self) -> Styler:
        """How many cells of each method agree, are higher, lower, not run, not published."""
        return figures.table(pd.crosstab(self.comparison["method"], self.comparison["verdict"]))

    def agreement(self) -> Styler:
        """Published values inside our intervals, rank correlation (see `tables.agreement`)."""
        return figures.table(tables.agreement(self.comparison), precision=3)

    def averages(self) -> Shown:
        """Means over the cells that have both values."""
        both = self.comparison.dropna(subset=["published", "ours"])
        if both.empty:
            return Text("*No cell has both a published value and one of ours.*")
        groups = both.groupby(["attack", "method"], observed=True)
        means = groups[["published", "ours", "difference"]].mean()
        return figures.table(means.assign(cells=groups.size()))

    def orderings(self) -> Shown:
        """For each pair of methods and attack, the counts of `csnb.paper.orderings`."""
        counts = pairs.orderings(self.comparison, self.paired)
        if counts.empty:
            return Text("*No class has two methods to compare.*")
        for source in pairs.SOURCES:  # blank where there is nothing to compare
            part = counts[source].astype("Int64")
            counts[source] = part.mask(part.sum(axis=1) == 0)
        return figures.table(counts.dropna(axis=1, how="all"))

    def trainings(self) -> Shown:
        """How far one of a pair is above the other, if trained again (see `over_trainings`)."""
        rows = pairs.over_trainings(self.paired)
        if rows.empty:
            return Text("*No class has two methods to compare.*")
        ends = zip(*(rows[name] for name in ("gap", "low", "high")), strict=True)
        rows["text"] = [signed_ends(*each) for each in ends]
        places = ["pair", "attack", "classes", "trainings"]
        wide = rows.pivot(index=places, columns="gradient", values="text")
        order = rows[places].drop_duplicates().itertuples(index=False, name=None)
        return figures.table(wide.reindex(list(order)).fillna(""))

    def tests(self) -> Shown:
        """The paired comparisons by exact gradients that are furthest apart."""
        rows = self.paired[self.paired["gradient"] == "exact"].drop(columns="gradient")
        if rows.empty:
            return Text("*No class has two methods to compare.*")
        gap = (rows["only_first"] - rows["only_second"]).abs() / rows["n"]
        rows = rows.loc[gap.sort_values(ascending=False, kind="stable").index[:MOST]]
        shown = rows.assign(
            p=rows["p"].map("{:.1e}".format), holm=rows["holm"].map("{:.1e}".format)
        )
        names = {name: name.replace("_", " ") for name in shown}
        return figures.table(shown.rename(columns=names).set_index(["pair", "attack"]), precision=3)

    def findings(self) -> Text:
        """The orderings of our runs in words (see `csnb.paper.findings`)."""
        said = pairs.findings(self.paired)
        return Text("\n".join(f"- {line}" for line in said) or "*No pair of methods was run.*")

    def clean(self) -> Shown:
        """Accuracies and false alarms on clean images by method (see `tables.other_side`)."""
        if self.scores.empty:
            return Text(NO_RUN)
        return figures.table(tables.other_side(self.scores, self.alarms), precision=4)

    def oddities(self) -> Shown:
        """Published cells that do not fit each other (see `csnb.paper.oddities`)."""
        if not self.known:
            return self._nothing_published()
        return figures.table(tables.oddities(self.dataset))

    def cells(self) -> Styler:
        """Every cell with its interval, difference and verdict."""
        frame = self.comparison.set_index(["attack", "method"]).dropna(axis=1, how="all")
        names = {name: name.replace("_", " ") for name in frame}
        return figures.table(frame.rename(columns=names), precision=4)

    def reading(self, name: str) -> Text:
        """What was written about the committed runs, if these are they (see `reading`)."""
        return reading(name, dataset=self.dataset, runs=self.there)

    def show(self, *sections: str) -> None:
        """Show sections of `HEADINGS` in a notebook; all by default.

        Those about published numbers are left out where there are none.
        """
        from IPython.display import Markdown, display

        for name in sections or HEADINGS:
            if self.known or name not in OF_PUBLISHED:
                display(Markdown(HEADINGS[name]))
                shown = getattr(self, name)()
                plt.show() if isinstance(shown, plt.Axes) else display(shown)

    def _nothing_published(self) -> Text:
        return Text(f"*The paper printed nothing for {self.dataset}.*")
