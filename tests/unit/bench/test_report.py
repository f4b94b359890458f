"""The table, the JSON document and what is published of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import report
from bench.figures import Figures
from bench.plan import QUICK
from bench.publish import EXPLANATION, README, publish
from bench.timing import Timing


def a_run() -> Figures:
    names = [
        "raw/p256/1",
        "raw/p256/2",
        "verify/p256",
        "disk",
        "noop/unix/1",
        "unary/unix/1",
        "noop/unix/32",
        "unary/unix/32",
        "unary/rsa3072/32",
        "batch/64",
        "pep458",
    ]
    series = {name: [Timing(1000.0 * (number + 1), 100, 300)] for number, name in enumerate(names)}
    return Figures(series, {"start/help_s": 0.05, "start/bare_s": 0.01, "resident_mb": 140.0})


def test_a_document_survives_json() -> None:
    read = json.loads(json.dumps(report.document(a_run(), QUICK)))
    figures = report.figures_of(read)
    assert figures.series == a_run().series
    assert figures.numbers == a_run().numbers


def test_the_table_names_machine_floors_and_goals() -> None:
    lines = report.text(report.document(a_run(), QUICK)).splitlines()
    assert any("2,048 bins" in line and "11,000/s" in line for line in lines)
    assert any(line.split()[:3] == ["unix", "32", "8,000/s"] for line in lines)
    assert any("slow token" in line and line.endswith("not measured") for line in lines)


def test_calls_with_other_keys_are_compared_with_the_no_op_of_their_socket() -> None:
    lines = report.text(report.document(a_run(), QUICK)).splitlines()
    [line] = [line for line in lines if line.split()[:2] == ["rsa3072", "32"]]
    assert line.endswith(f"{9 / 7:.2f}")


def test_the_table_tells_which_process_spends_the_time() -> None:
    figures = a_run()
    costs = {"client": 300.0, "daemon": 1000.0, "worker": 200.0}
    figures.add("unary/mtls/8", Timing(800.0, 100, 300, 640, costs))
    lines = report.text(report.document(figures, QUICK)).splitlines()
    [line] = [line for line in lines if line.split()[:1] == ["unary/mtls/8"]]
    assert line.split()[1:] == ["300", "1,000", "200", "1,500", "1.20"]


def test_documents_of_another_format_are_refused() -> None:
    with pytest.raises(ValueError, match="run the bench again"):
        report.figures_of({"format": 0})


@pytest.fixture
def pages(tmp_path: Path) -> tuple[Path, Path]:
    pages = tmp_path / "README.md", tmp_path / "performance.md"
    for page in pages:
        page.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    return pages


def test_pages_change_between_their_markers_only(pages: tuple[Path, Path]) -> None:
    read = report.document(a_run(), QUICK)
    publish(read, *pages)
    once = [page.read_text() for page in pages]
    for text in once:
        assert text.startswith("before\n<!-- bench:begin -->\n")
        assert text.endswith("\n<!-- bench:end -->\nafter\n")
        assert "old" not in text
    assert "| 8,000 |" in once[0]
    publish(read, *pages)
    assert [page.read_text() for page in pages] == once


def test_the_explanation_tells_costs_and_goals(pages: tuple[Path, Path]) -> None:
    figures = a_run()
    figures.add("unary/mtls/32", Timing(800.0, 100, 300, 640, {"client": 300.0, "daemon": 1e3}))
    publish(report.document(figures, QUICK), *pages)
    rows = pages[1].read_text().splitlines()
    assert any(
        row.endswith("mutual TLS, 32 callers | 300 | 1,000 |  | 1,300 | 1.04 |") for row in rows
    )
    assert any(
        row.startswith("| daemon and worker, resident | 140.00 | ≤ 150 MB |") for row in rows
    )


def test_a_page_without_markers_is_left_alone(pages: tuple[Path, Path]) -> None:
    pages[0].write_text("# keyd\n")
    with pytest.raises(ValueError, match="bench:begin"):
        publish(report.document(a_run(), QUICK), *pages)
    assert pages[0].read_text() == "# keyd\n"


def test_the_real_pages_have_markers() -> None:
    for page in (README, EXPLANATION):
        assert page.read_text().count("<!-- bench:") == 2
