import re
import sys
from pathlib import Path

import pytest

from report.content import Picture
from report.page import render

sys.path.insert(0, str(Path(__file__).parent))
from report_helpers import DOT, EVIL, Page, a_pair, a_report, chromium


def test_a_pair_is_shown_with_both_images_its_texts_and_its_claims():
    page = Page(render(a_report()))
    assert [image["src"] for image in page.all("img")] == [DOT, DOT]
    for said in ("What is there?", "A red circle.", "A blue star.", "A cross.", "CLIP 0.970"):
        assert said in page.text
    assert "DINOv2" not in page.text
    for verdict in ("consistent", "inconsistent", "unverifiable"):
        assert len(page.all("li", class_=f"claim {verdict}")) == 1


def test_a_verdict_is_told_by_words_too():
    text = " ".join(Page(render(a_report())).text.split())
    assert "✓ consistent A red circle is there. in 3 answers; caption: “a red circle”" in text
    assert "✗ inconsistent A blue star is there. in 1 answer" in text
    assert "? unverifiable It is lovely." in text


@pytest.mark.parametrize("field", ["prompt", "chosen", "rejected", "neighbour_chosen", "split"])
def test_text_is_text(field):
    page = Page(render(a_report(a_pair(**{field: EVIL}))))
    assert not page.all("script")
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert EVIL in page.text


def test_the_page_loads_nothing():
    html = render(a_report())
    page = Page(html)
    named = [a[key] for _, a in page.elements for key in ("src", "href", "srcset") if key in a]
    assert named
    assert all(re.match(r"data:|#", name) for name in named), named
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in page.all("meta")[-1]["content"]


def test_figures_drops_and_recipes_are_told():
    text = " ".join(Page(render(a_report())).text.split())
    assert "A sample of 1 of 900 rows" in text
    assert "no_rejected 60 6.0%" in text
    assert "caption captioner 1,200 3 1,203 5,000,000 70,000 $1.2500" in text
    assert f"mine none {'e' * 32}" in text
    assert "median 5 words, 14 texts" in text


def test_a_dataset_without_rows_has_a_page():
    empty = a_report(rows=0, kept=0, drops={}, pairs=(), lengths=(), splits={})
    assert "No row was dropped." in Page(render(empty)).text


def test_a_missing_picture_says_why():
    pair = a_pair(image=Picture(None, fault="FileMissing: gone.png"), neighbour=None)
    page = Page(render(a_report(pair)))
    assert page.all("img") == []
    assert "FileMissing: gone.png" in page.text


def test_a_browser_draws_it(tmp_path):
    """In Chromium at both widths: pictures load, no script runs, nothing is wider than the page."""
    long = a_pair(prompt="x" * 400, chosen=EVIL, neighbour_chosen="word " * 300)
    page = tmp_path / "report.html"
    page.write_text(render(a_report(a_pair(), long)), encoding="utf-8")
    for width in (1400, 390):
        frame = tmp_path / f"frame-{width}.html"
        frame.write_text(PROBE.format(page=page.as_uri(), width=width), encoding="utf-8")
        drawn = chromium(
            "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
            frame.as_uri(), profile=tmp_path / f"profile-{width}",
        )  # fmt: skip
        found = dict(re.findall(r"(\w+)=([^;<]*);", Page(drawn).text.split("FOUND", 1)[1]))
        assert found["pictures"] == found["loaded"] == "4"
        assert found["pairs"] == "2"
        assert found["title"] == "tiny: 900 preference rows"
        assert int(found["needed"]) <= int(found["inner"]) == width
        assert float(found["tallest"]) > 20  # the histograms have bars
        assert found["green"] != found["red"]


# The report in a frame of a given width, and what it is measured to be. The report itself can run
# no script; the page around it may.
PROBE = """<!doctype html><body>
<iframe id="f" src="{page}" style="width:{width}px;height:900px;border:0"></iframe>
<p id="found"></p>
<script>
document.getElementById("f").onload = (event) => {{
  const inside = event.target.contentDocument, view = event.target.contentWindow;
  const all = (query) => [...inside.querySelectorAll(query)];
  const colour = (query) => view.getComputedStyle(inside.querySelector(query)).color;
  const found = {{
    pictures: all("img").length,
    loaded: all("img").filter((image) => image.complete && image.naturalWidth > 0).length,
    pairs: all("article").length,
    title: inside.title,
    needed: inside.documentElement.scrollWidth,
    inner: view.innerWidth,
    tallest: Math.max(...all(".plot rect").map((bar) => bar.getBoundingClientRect().height)),
    green: colour(".claim.consistent"),
    red: colour(".claim.inconsistent"),
  }};
  document.getElementById("found").textContent = "FOUND " +
    Object.entries(found).map(([name, value]) => name + "=" + value + ";").join(" ");
}};
</script></body>
"""
