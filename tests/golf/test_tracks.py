"""The tracks against RULES.md and the presets of train_gpt.py, which state the same facts for people and for itself."""

import re

import train_gpt
from golf.tracks import TRACKS
from tests.support import ROOT


def test_names_are_the_keys_and_sentences_state_the_numbers():
    for name, track in TRACKS.items():
        assert track.name == name and track.description.endswith(".")
        if track.training_seconds is not None:
            numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", track.description)}
            assert {track.cap_bytes, track.training_seconds, track.scoring_seconds} <= numbers
            assert track.par_tokens is None or track.par_tokens in numbers
            assert track.machine in track.description and track.data in track.description


def test_the_training_script_states_the_same_clocks():
    for name in TRACKS.keys() & train_gpt.PRESETS.keys():
        config = train_gpt.parse_config([f"--preset={name}"], {})
        track = TRACKS[name]
        assert config.track == name
        if track.par_tokens is None:
            assert config.max_seconds == track.training_seconds and config.max_tokens == 0
        else:
            assert config.max_seconds == 0 and config.max_tokens >= track.par_tokens


def test_the_rules_state_the_same_caps():
    rules = (ROOT / "RULES.md").read_text(encoding="utf-8")
    for track in TRACKS.values():
        assert f"{track.cap_bytes:,}" in rules
