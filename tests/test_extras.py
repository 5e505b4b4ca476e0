import json
from pathlib import Path

import pytest

from fedkd.errors import MissingExtraError
from fedkd.extras import need


def test_what_is_there_is_imported() -> None:
    assert need("json", extra="viz", what="the report") is json


@pytest.mark.parametrize("module", ["no_such_plotter", "no_such_plotter.pyplot"])
def test_what_is_missing_is_refused_with_the_extra_that_brings_it(module: str) -> None:
    with pytest.raises(MissingExtraError) as caught:
        need(module, extra="viz", what="the report")
    assert str(caught.value) == f"the report needs '{module}', which is not installed; run: pip install 'fedkd[viz]'"


def test_a_gap_inside_an_installed_module_is_not_blamed_on_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        need("half_installed", extra="viz", what="the report")
