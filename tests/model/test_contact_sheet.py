"""The contact sheet: complete, self-contained, and safe against hostile file names."""

import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from PIL import Image

from face2bone_model.data.preparation import PreparationSettings
from face2bone_model.data.quality import FaceQuality
from face2bone_model.data.quarantine import QuarantineReason
from face2bone_model.report.contact_sheet import (
    MOST_PICTURED,
    ContactSheet,
    SheetFace,
    SheetQuarantined,
    render_contact_sheet,
    write_contact_sheet,
)

QUALITY = FaceQuality(
    probability=1, eye_distance=81.4, yaw=-3.2, pitch=2, roll=3, light=200, clipped=0, sharpness=512.3, asymmetry=0.3,
    outside=0, chin_outside=0,
)  # fmt: skip
HOSTILE = 'photos/"><script>alert(1)</script>.jpg'


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def face(photo):
    corners = ((0.25, 0.1), (0.75, 0.1), (0.75, 0.6), (0.25, 0.6))
    return SheetFace(
        photo=photo, before=jpeg("red"), after=jpeg("blue"), corners=corners, aspect=0.8, quality=QUALITY
    )


def bad(photo, reason=QuarantineReason.NO_FACE, thumbnail=None):
    return SheetQuarantined(photo=photo, reason=reason, detail="A detail.", thumbnail=thumbnail)


def sheet(**changes):
    values = {
        "site": "Riverside",
        "prepared_at": datetime(2026, 3, 4, 5, 6, tzinfo=UTC),
        "software_version": "0.1.0",
        "num_photos": 4,
        "num_usable": 2,
        "num_patients": 2,
        "left_out": {"no usable photo": 2},
        "background": "u2netp",
        "settings": PreparationSettings(),
        "settings_digest": "abc123",
        "faces": [face("photos/p1.jpg"), face(HOSTILE)],
        "quarantined": [
            bad("photos/p3.jpg", QuarantineReason.UNREADABLE),
            bad("photos/p4.jpg", thumbnail=jpeg("green")),
        ],
    }
    return ContactSheet(**(values | changes))


class Elements(HTMLParser):
    """Tags with their attributes, and that every element is closed."""

    VOID = frozenset({"meta", "img", "polygon"})

    def __init__(self, page):
        super().__init__()
        self.tags, self._open = [], []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_network():
    page = render_contact_sheet(sheet())
    tags = Elements(page).tags
    assert not any(tag in {"script", "link", "iframe", "object"} for tag, _ in tags)
    sources = [attributes["src"] for tag, attributes in tags if tag == "img"]
    assert len(sources) == 5
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_the_warning_is_the_first_thing_on_the_page():
    body = render_contact_sheet(sheet()).split("<body>")[1]
    text = re.sub(r"<[^>]+>", " ", body).strip()
    assert text.startswith("Faces: this page must not leave the hospital.")


def test_every_quarantined_photo_comes_with_why_and_the_mend():
    page = render_contact_sheet(sheet())
    for photo in sheet().quarantined:
        assert photo.photo in page
        assert photo.reason.sentence in page
        assert photo.reason.mend in page
    assert "no picture" in page


def test_counts_and_measures_are_shown():
    page = render_contact_sheet(sheet())
    assert "Riverside: 2 of 4 photos can be used" in page
    assert "<dt>Sharpness</dt><dd>512</dd>" in page
    assert "<dt>Yaw</dt><dd>-3°</dd>" in page
    assert "4 March 2026, 05:06" in page
    assert "abc123" in page


def test_the_outline_is_where_the_face_was_cut_out():
    assert 'points="250,125 750,125 750,750 250,750"' in render_contact_sheet(sheet())


@pytest.mark.parametrize(("background", "told"), [("u2netp", False), ("ellipse-only", True)])
def test_a_missing_background_removal_is_told(background, told):
    page = render_contact_sheet(sheet(background=background))
    assert ("Background not removed." in page) is told


def test_a_sample_says_that_it_is_one():
    assert "All usable photos." in render_contact_sheet(sheet())
    assert "2 of 300 usable photos, drawn evenly." in render_contact_sheet(sheet(num_usable=300))


def test_very_many_bad_photos_are_all_named_but_not_all_pictured():
    many = [bad(f"photos/n{n}.jpg", thumbnail=jpeg("green")) for n in range(MOST_PICTURED + 30)]
    page = render_contact_sheet(sheet(quarantined=many, faces=[]))
    assert page.count("<img") == MOST_PICTURED
    assert "30 more, without pictures" in page
    assert all(f"photos/n{n}.jpg" in page for n in range(MOST_PICTURED + 30))


def test_like_reasons_stand_together_the_most_frequent_first():
    mixed = [bad("a"), bad("b", QuarantineReason.TOO_DARK), bad("c", QuarantineReason.TOO_DARK)]
    shown = sheet(quarantined=mixed)
    assert [photo.photo for photo in shown.pictured] == ["b", "c", "a"]
    assert shown.reasons == [(QuarantineReason.TOO_DARK, 2), (QuarantineReason.NO_FACE, 1)]


def test_an_empty_site_still_has_a_page():
    page = render_contact_sheet(
        sheet(num_photos=0, num_usable=0, num_patients=0, faces=[], quarantined=[], left_out={})
    )
    Elements(page)
    assert "No photo is in quarantine." in page
    assert "No photo can be used." in page


def test_the_file_is_readable_by_its_owner_only(tmp_path):
    path = write_contact_sheet(tmp_path / "contact-sheet.html", sheet())
    assert path.stat().st_mode & 0o077 == 0
    assert path.read_text(encoding="utf-8") == render_contact_sheet(sheet())
