"""Audits in runs' folders: beside the scores, carried on, left aside where they are others'."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import QUICK, stripes
from scipy.stats import binomtest

import csnb
from csnb.auditing import audit_run, compared, fullest, kept_audits, kept_rows
from csnb.paper import tables
from csnb.runs import read_run, read_runs
from csnb.runs.audits import read_audits
from csnb.runs.identity import NUMERICS


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs of the stripes; the one that protects class 1 is audited."""
    folder = tmp_path_factory.mktemp("audited")
    data = stripes(folder / "stripes.npz", train=60)
    given = {"dataset": data, "runs": str(folder / "runs"), "protected_class": 1} | QUICK
    for method in ("ADV", "CSA"):
        csnb.run(csnb.Experiment(method=method, **given))
    (own,) = (folder / "runs").glob("*-CSA-*")
    audit_run(own, images=20)
    return folder / "runs"


def run_of(runs: Path, method: str) -> Path:
    (folder,) = runs.glob(f"*-{method}-*")
    return folder


def test_scores_stand_beside_what_is_audited(runs: Path) -> None:
    (file,) = run_of(runs, "CSA").glob("audit-p1-*.csv")
    rows = pd.read_csv(file, dtype={"class": str})
    assert rows["text"].str.contains("ADV").sum() == 0 and "from " in " ".join(rows["name"])
    part = rows[(rows["part"] == "accuracy") & (rows["name"] == "audited")].set_index("class")
    frame = read_runs(runs)
    beside = frame[frame["audited"].notna()]
    attacks = {"FGSM", "LinfBIA(steps=2)"}
    assert set(beside["attack"]) == attacks and set(beside["class"]) == {"middle"}
    assert set(beside["method"]) == {"CSA"} and set(beside["audited_n"]) == {10}
    assert set(beside["audited"]) == {part.loc["middle", "value"]}
    assert frame.attrs["parameters"]["epochs"] == 1
    table = tables.audits(frame)
    least = beside["value"].astype(float).min()
    assert table.loc[("middle", 0, "CSA"), "exact"] == least and len(table) == 1
    assert table["audited"].iloc[0].startswith(f"{part.loc['middle', 'value']:.3f} [")
    kept, rows = kept_audits(runs).iloc[0], kept_rows(runs)
    assert set(rows["run"]) == {kept["run"]} and set(rows["seed"]) == {kept["seed"]}
    left = rows[(rows["part"] == "accuracy") & (rows["name"] == "audited")]
    assert left.set_index("class")["value"][kept["class"]] == kept["audited"]
    told = kept[["dataset", "threat", "method", "seed"]].tolist()
    assert told == ["stripes.npz", "eps 0.3 (normalized)", "CSA", 0]
    assert kept["audited"] == part.loc["middle", "value"] <= kept["claimed"]
    bound = rows[(rows["part"] == "accuracy") & (rows["name"] == "certified")].set_index("class")
    least = bound.loc["middle", "value"]
    assert set(beside["certified"]) == {least} == {kept["certified"]} and least <= kept["audited"]
    assert set(beside["certified_n"]) == {10}
    assert table["certified"].iloc[0].startswith(f"{least:.3f} [")


def test_audits_without_bounds_remain_readable(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run_of(runs, "CSA"), tmp_path / run_of(runs, "CSA").name)
    (file,) = folder.glob("audit-p1-*.csv")
    rows = text_cells(file)
    sign(file, rows[rows["name"] != "certified"])
    frame = read_runs(tmp_path)
    assert frame["audited"].notna().any() and "certified" not in frame
    assert list(tables.audits(frame)) == ["float32", "exact", "audited"]
    assert np.isnan(kept_audits(tmp_path).iloc[0]["certified"])
    both = csnb.runs.read_scores([folder, run_of(runs, "CSA")])
    assert both["certified"].notna().sum() == both["audited"].notna().sum() > 0


def test_the_committed_audits_are_readable() -> None:
    (file,) = csnb.runs.RESULTS.glob("mnist-ADV-p0-s0-*/audit-p0-*.csv")
    folder = file.parent
    weights = read_run(folder)["sha256"]["model.safetensors"]
    assert len(read_audits(folder, weights)) == 10  # its ten classes
    assert set(csnb.runs.read_scores([folder])["audited_n"].dropna()) == {300}


def test_a_run_is_done_with_its_audit_and_takes_it_along(runs: Path) -> None:
    folder = run_of(runs, "CSA")
    before = sorted(f.name for f in folder.glob("audit-*"))
    assert len(before) == 2 and read_run(folder)
    again = csnb.Run(
        csnb.Experiment.of_result(read_run(folder)).model_copy(update={"runs": str(runs)})
    )
    again.train(), again.evaluate()
    assert again.write() == folder
    assert set(again.audited()["audited"].dropna()) == {kept_audits(runs)["audited"].iloc[0]}
    assert sorted(f.name for f in folder.glob("audit-*")) == before


def test_an_audit_of_other_weights_is_left_aside(runs: Path) -> None:
    (file,) = run_of(runs, "CSA").glob("audit-p1-*.csv")
    other = run_of(runs, "ADV") / file.name
    other.write_bytes(file.read_bytes())
    (other.parent / "audit-p1-broken.csv").write_bytes(b"\xff,nothing")
    frame = read_runs(runs)
    assert frame[frame["method"] == "ADV"]["audited"].isna().all()
    other.unlink()


def test_scores_without_audits_have_no_such_column(runs: Path) -> None:
    adv = csnb.runs.read_scores([run_of(runs, "ADV")])
    assert "audited" not in adv and tables.audits(adv).empty


def test_the_claim_is_the_strongest_attack_within_the_ball(runs: Path) -> None:
    folder = run_of(runs, "CSA")
    with np.load(folder / "predictions.npz") as arrays:
        labels, attacked = arrays["labels"], arrays["attacked"]
        mine = labels[attacked] == 1
        hits = {
            n: (arrays[n] == labels[attacked])[mine].mean() for n in ("FGSM", "LinfBIA(steps=2)")
        }
    assert hits[kept_audits(runs).iloc[0]["claim"]] == min(hits.values())
    with pytest.raises(csnb.InputError, match=r"^claim: 'PGD' is none of the run's; allowed: FGSM"):
        audit_run(folder, claim="PGD")


def text_cells(file: Path) -> pd.DataFrame:
    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    return rows[rows["part"] != "digest"]


def sign(file: Path, rows: pd.DataFrame) -> None:
    """Write an audit's rows with the digest that whole ones have."""
    content = rows.to_csv(index=False)
    file.write_text(f"{content}digest,{hashlib.sha256(content.encode()).hexdigest()}\n")


@pytest.mark.parametrize("name", ["NA", "", "nan", "01", "others", "all"])
def test_a_class_may_be_called_anything(name: str, tmp_path: Path) -> None:
    data = stripes(tmp_path / "named.npz", classes=(name, "other", "third"), train=60)
    given = {"dataset": data, "runs": str(tmp_path / "runs"), "protected_class": 0} | QUICK
    folder = csnb.run(csnb.Experiment(method="STD", **given)).folder
    weights = read_run(folder)["sha256"]["model.safetensors"]
    head = "part,name,class,value,low,high,n,flagged,text,claim,weights,numerics"
    end = f'"a text",FGSM,{weights},{NUMERICS}'
    rows = [f"verdict,stands,{name},0,0,0.3,10,,{end}"]
    rows += [f"accuracy,audited,{name},0.75,0.5,0.9,8,,{end}"]
    rows += [f"average,audited,{who},0.25,0.1,0.4,20,,{end}" for who in ("others", "all")]
    content = "\n".join([head, *rows, ""])
    digest = hashlib.sha256(content.encode()).hexdigest()
    (folder / "audit-p0-0123456789.csv").write_text(f"{content}digest,{digest},,,,,,,,,,\n")
    frame = read_runs(folder.parent)
    beside = frame[frame["audited"].notna()]
    assert set(beside["class"]) == {name}
    assert set(beside["audited"]) == {0.75} and set(beside["audited_n"]) == {8}
    kept = kept_audits(folder.parent).iloc[0]
    assert (kept["class"], kept["n"], kept["audited"]) == (name, 10, 0.75)


@pytest.mark.parametrize(
    ("part", "column", "cell"),
    [(p, "n", c) for p in ("accuracy", "verdict") for c in ("", "many", "inf", "-1")]
    + [("accuracy", "value", c) for c in ("", "most", "1.5", "inf")]
    + [("verdict", "class", "nobody"), ("verdict", "part", "none")],
)
def test_an_audit_that_is_not_whole_stops_no_reading(
    part: str, column: str, cell: str, runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run_of(runs, "CSA"), tmp_path / run_of(runs, "CSA").name)
    (file,) = folder.glob("audit-p1-*.csv")
    rows = text_cells(file)
    own = (rows["part"] == part) & (rows["class"] == "middle") & (rows["name"] != "claimed")
    rows.loc[own, column] = cell
    sign(file, rows)
    assert "audited" not in read_runs(tmp_path)
    assert "audited" not in csnb.runs.read_scores([folder])
    assert kept_audits(tmp_path).empty and kept_rows(tmp_path).empty


def test_an_audit_of_which_a_byte_or_the_end_is_another_is_left_aside(
    runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run_of(runs, "CSA"), tmp_path / run_of(runs, "CSA").name)
    (file,) = folder.glob("audit-p1-*.csv")
    whole = file.read_bytes()
    digit = whole.index(b"accuracy,audited,middle,") + len(b"accuracy,audited,middle,0.")
    flipped = whole[:digit] + bytes([whole[digit] ^ 1]) + whole[digit + 1 :]
    cut = whole[: whole.rindex(b"digest")]
    for other in (flipped, cut, cut + b"digest," + b"0" * 64 + b"\n", whole[: len(whole) // 2]):
        file.write_bytes(other)
        assert kept_audits(tmp_path).empty and "audited" not in read_runs(tmp_path)
    file.write_bytes(whole)
    assert len(kept_audits(tmp_path)) == 1


def kept_of(rows: list[tuple[str, str, int, int, float, int]]) -> pd.DataFrame:
    """Audits by run, method, class, seed, audited and n."""
    frame = pd.DataFrame(rows, columns=["run", "method", "class", "seed", "audited", "n"])
    return frame.assign(dataset="mnist", threat="eps 0.3")


def test_of_audits_of_a_class_the_one_of_most_images_that_left_the_least_counts() -> None:
    rows = [("a", "CSE", 3, 0, 0.1, 50), ("a", "CSE", 3, 0, 0.7, 300), ("a", "CSE", 3, 0, 0.6, 300)]
    kept = kept_of([*rows, ("a", "CSE", 4, 0, 0.9, 50), ("b", "STD", 3, 0, 0.2, 50)])
    assert sorted(fullest(kept)["audited"]) == [0.2, 0.6, 0.9]


def test_methods_are_compared_where_both_were_audited_by_newcombe_s_interval() -> None:
    kept = kept_of([
        ("a", "CSA", 3, 0, 0.5, 300), ("b", "ADV", 3, 0, 0.6, 300), ("b", "ADV", 4, 0, 0.1, 300),
        ("c", "CSA", 4, 0, 0.2, 200), ("d", "CSA", 5, 0, 0.2, 300), ("e", "CSA", 3, 1, 0.9, 300),
        ("f", "ADV", 3, 1, 0.91, 300), ("g", "STD", 3, 0, 0.0, 300),
    ])  # fmt: skip
    other = kept[kept["run"] == "b"].assign(run="h", threat="eps 0.1")
    found = compared(pd.concat([kept, other]), "CSA", "ADV")
    assert found[["class", "seed"]].to_numpy().tolist() == [[3, 0], [3, 1], [4, 0]]
    assert found["verdict"].tolist() == ["below", "unclear", "above"]
    assert found["difference"].to_numpy() == pytest.approx([-0.1, -0.01, 0.1])
    for row, n in zip(found.itertuples(), (300, 300, 200), strict=True):
        shares = (row.first, n), (row.second, 300)
        one, two = (binomtest(round(p * m), m).proportion_ci(method="wilson") for p, m in shares)
        below = np.hypot(row.first - one.low, two.high - row.second)
        above = np.hypot(one.high - row.first, row.second - two.low)
        ends = [row.difference - below, row.difference + above]
        assert [row.low, row.high] == pytest.approx(ends)
    assert compared(kept, "CSA", "TRADES").empty and compared(kept[:0], "CSA", "ADV").empty


@pytest.mark.parametrize("name", ["others", "all"])
def test_of_a_class_called_as_a_row_of_the_audit_its_own_accuracy_is_known(
    name: str, tmp_path: Path
) -> None:
    data = stripes(tmp_path / "named.npz", classes=(name, "other", "third"), train=60)
    given = {"dataset": data, "runs": str(tmp_path / "runs"), "protected_class": name} | QUICK
    folder = csnb.run(csnb.Experiment(method="STD", **given)).folder
    found = audit_run(folder, images=20)
    assert found.table().index.tolist().count(name) == 2
    own = found.rows.query("part == 'accuracy' and name == 'audited'")["value"].item()
    assert kept_audits(tmp_path / "runs")["audited"].tolist() == [own]
    scores = csnb.runs.read_scores([folder])
    assert set(scores["audited"].dropna()) == {own} and set(scores["audited_n"].dropna()) == {10}


def test_an_audit_without_a_column_or_with_a_row_twice_stops_no_reading(
    runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(run_of(runs, "CSA"), tmp_path / run_of(runs, "CSA").name)
    (file,) = folder.glob("audit-p1-*.csv")
    whole = text_cells(file)
    for column in ("part", "name", "class", "value", "low", "n", "flagged", "claim", "weights"):
        sign(file, whole.drop(columns=column))
        assert "audited" not in read_runs(tmp_path) and kept_audits(tmp_path).empty
    sign(file, pd.concat([whole, whole]))
    assert "audited" not in read_runs(tmp_path) and kept_audits(tmp_path).empty
    sign(file, whole)
    assert "audited" in read_runs(tmp_path) and len(kept_audits(tmp_path)) == 1
