"""Pictures: all of one or nothing."""

import pytest

from compress.lab.plot import plot_steps

pytestmark = pytest.mark.slow


def test_a_picture_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        plot_steps([{"name": "a", "row_octaves": [1.0], "column_octaves": [0.0]}], None, tmp_path / "no" / "x.png")
    assert list(tmp_path.iterdir()) == []
