"""What was written about results is shown for those results, and for no others."""

from pathlib import Path

import pytest

from csnb import InputError
from csnb.paper import reading, readings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(readings, "READINGS", tmp_path)
    text = "<!-- written for: dataset = mnist; runs = 11 of 32 -->\n\nADV is *not* below CSA.\n"
    (tmp_path / "table.md").write_text(text)
    return tmp_path


def test_a_reading_is_shown_where_it_was_written_for() -> None:
    shown = reading("table", dataset="mnist", runs="11 of 32")
    assert shown._repr_markdown_() == repr(shown) == "ADV is *not* below CSA." and shown.fits


@pytest.mark.parametrize("given", [{"dataset": "cifar10"}, {"runs": "12 of 32"}, {"seed": 1}])
def test_a_reading_is_not_shown_for_anything_else(given: dict[str, object]) -> None:
    text = reading("table", **{"dataset": "mnist", "runs": "11 of 32"} | given)
    shown = repr(text)
    ((key, value),) = given.items()
    assert "ADV" not in shown and shown.startswith("*No reading")
    assert shown.endswith(f"here it is {key} = {value}.*") and not text.fits


def test_a_missing_text_and_one_without_its_condition_are_refused(folder: Path) -> None:
    (folder / "always.md").write_text("All is well.")
    with pytest.raises(InputError, match=r"^reading: .*none.md cannot be read"):
        reading("none")
    with pytest.raises(InputError, match=r"^reading: .*always.md does not say for what"):
        reading("always")
