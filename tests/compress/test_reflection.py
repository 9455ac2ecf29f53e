"""What a script may read of itself: what is reached, and what our own sources read.

Not covered: that the minified script then does the same (test_minify.py).
"""

import ast

import pytest

from compress.minify import minify
from compress.reflection import read_in
from tests.support import ROOT


@pytest.mark.parametrize("name", ["compress/decode.py", "train_gpt.py"])
def test_our_own_sources_read_nothing_of_themselves(name):
    """If one does, docstrings and annotations of all of it are packed. A module that reads nothing of what it is handed
    belongs into LEAVE_ALONE."""
    assert read_in(ast.parse((ROOT / name).read_text()))[0] == set()


def test_only_what_an_artifact_reaches_keeps_anything():
    """The command line of a script looks at itself; what build_model reaches does not, or does."""
    source = """'module'
from dataclasses import dataclass
@dataclass
class Config:
    width: int = 3
def build_model(config):
    'builds'
    {line}
    return helper(config)
def helper(config: Config):
    'helps'
    local_name = config.width
    return local_name
def main(argument_name):
    'the command line'
    return getattr(Config, argument_name), main.__doc__, vars(Config)
if __name__ == '__main__':
    print(helper.__annotations__, globals())
"""
    plain = minify(source.format(line="pass"))
    assert "helps" not in plain and "command line" not in plain and "config:Config" not in plain
    for line, word in (
        ("main('width')", "helps"),
        ("print(helper.__doc__)", "helps"),
        ("helper.__annotations__", "config:Config"),
        ("import inspect", "local_name"),
        ("getattr(config, config.name)", "local_name"),
    ):
        assert word in minify(source.format(line=line)), line
        assert word not in plain.replace("local_name", "") or word == "local_name"
