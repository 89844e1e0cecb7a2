"""The fingerprint two people compare by phone."""

import re

from face2bone_model.contract.fingerprint import fingerprint

KEY = "ecdsa-sha2-nistp384 AAAAE2VjZHNh"


def test_a_fingerprint_is_six_groups_of_four_digits():
    assert re.fullmatch(r"([0-9a-f]{4}-){5}[0-9a-f]{4}", fingerprint(KEY))


def test_the_comment_and_spaces_of_a_key_do_not_change_its_fingerprint():
    assert fingerprint(f"{KEY} it@hospital\n") == fingerprint(KEY.replace(" ", "  "))


def test_another_key_has_another_fingerprint():
    assert fingerprint(KEY) != fingerprint(KEY + "A")
