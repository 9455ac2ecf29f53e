"""A fixture: what the leaderboard remembers lies in a folder of the tests, not in the user's. Not a test itself."""

import pytest

from tools.records import remembered


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Import it into a test file; the tests of one worker share the folder."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.getbasetemp() / "board"
        patch.setattr(remembered, "folder", lambda: folder)
        yield folder
