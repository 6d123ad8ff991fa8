import pytest

from experiments import drawing, records


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The folder that experiments write their results and pictures to."""
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(drawing, "FIGURES", tmp_path)
    return tmp_path
