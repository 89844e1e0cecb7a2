"""Every failure has one number, and every number one page."""

import re
from pathlib import Path

import pytest

from face2bone_model.contract import errors
from face2bone_model.contract.errors import Face2BoneError, error_types

PAGES = Path(__file__).parents[2] / "docs" / "exit-codes"
KINDS = sorted(error_types().items())


def sentence(kind):
    return (kind.__doc__ or "").splitlines()[0]


def test_no_two_errors_share_a_number():
    kinds = Face2BoneError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds) == len(KINDS)


def test_numbers_are_exit_codes_a_shell_can_tell_apart():
    assert all(1 < code < 126 for code, _ in KINDS)


def test_the_tree_in_the_docstring_lists_every_error_with_its_number_and_sentence():
    listed = re.findall(r"\+-- (\w+) +(\d+) +(.+)", errors.__doc__ or "")
    of_classes = {
        (kind.__name__, code, sentence(kind).replace("`", "").rstrip(".").lower()) for code, kind in KINDS
    }
    assert {(name, int(code), text.lower()) for name, code, text in listed} == of_classes


@pytest.mark.parametrize(("code", "kind"), KINDS)
def test_every_number_has_a_page_with_its_sentence_as_title(code, kind):
    text = (PAGES / f"{code:02d}.md").read_text(encoding="utf-8")
    assert text.splitlines()[0] == f"# {code:02d}: {sentence(kind)}"
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert parts == ["What it means", "Who sees it", "How to mend it", "Example"]
    assert f"error {code} " in text


def test_every_page_belongs_to_a_number_and_the_index_lists_it():
    pages = {path.name for path in PAGES.glob("*.md")}
    assert pages == {f"{code:02d}.md" for code, _ in KINDS} | {"README.md"}
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    for code, kind in KINDS:
        assert f"[{code:02d}]({code:02d}.md) | `{kind.__name__}` | {sentence(kind)}" in index


def test_an_error_reads_as_what_is_wrong_and_how_to_mend_it():
    assert str(errors.InputError("dxa.csv row 3 has no T-score.", "Fill it in.")) == (
        "dxa.csv row 3 has no T-score. Fill it in."
    )
    assert str(errors.InputError("dxa.csv is empty.")) == "dxa.csv is empty."
