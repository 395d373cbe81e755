"""The page of a benchmark: what it says, that nothing in a result can harm it, and how it is used."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtk.bench.cells import Cell
from rtk.bench.store import Store
from rtk.site import numbers
from rtk.site.labels import SIDES, Point, placed
from rtk.site.labels import _box as box
from rtk.site.labels import _meet as meet

from .small_bench import REASON, SPEC, rewrite, small_bench
from .test_cli import Command, command  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("plotly", reason="part of the extra 'site'")
pytest.importorskip("jinja2", reason="part of the extra 'site'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync")
EVIL = """</script></template>'"><script>window.hacked=1</script><img src=x onerror="window.hacked=1">{{7*7}}&amp;"""


class Parts(HTMLParser):
    """Tags with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.packs: dict[str, str] = {}
        self.title = ""
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("data-pack") if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.packs[self._open] = gzip.decompress(base64.b64decode(data)).decode()

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def site(*arguments: str) -> None:
    from rtk.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", "site", *arguments])
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Cell]]:
    """Real runs; read them only."""
    return small_bench(tmp_path_factory.mktemp("site") / "bench")


@pytest.fixture(scope="module")
def file(bench: tuple[Store, list[Cell]]) -> Path:
    """Their page."""
    site(str(bench[0].root), "--examples", "2")
    return bench[0].root / "site.html"


@pytest.fixture(scope="module")
def parts(file: Path) -> Parts:
    return Parts(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def evil(bench: tuple[Store, list[Cell]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the same runs, with markup wherever a result or a spec has room for text."""
    root = shutil.copytree(bench[0].root, tmp_path_factory.mktemp("evil") / "bench")
    store, cells = Store(root), bench[1]
    spec = (root / "spec.toml").read_text().replace("workers = 1", f"workers = 1\ndata_root = {json.dumps(EVIL)}")
    (root / "spec.toml").write_text(spec)
    chart = {"kind": "bar", "x": [EVIL], "y": {EVIL: [1]}, "x_label": EVIL, "y_label": EVIL, "text": EVIL}
    check = {"name": "made", "verdict": "warning", "value": None, "limit": None, "item": "clean", "text": EVIL}
    for cell in cells[:2]:
        rewrite(
            store,
            cell,
            report={"charts": {EVIL: chart}, "selection": {"fine-tune": {"by": EVIL, "on": EVIL, "epoch": EVIL}}},
            rows__1__checks=[check],
            rows__1__name=EVIL,
            backbone__uri=EVIL,
            dataset__uri=EVIL,
            environment__device=EVIL,
            strategy__paper={"title": EVIL, "authors": EVIL, "venue": EVIL, "url": f"javascript:{EVIL}"},
        )
        with (store.directory(cell) / "log.jsonl").open("a") as log:
            log.write(json.dumps({"event": "epoch", "phase": EVIL, "epoch": 1, "loss": 1.0}) + "\n{half a li")
    rewrite(store, cells[3], report={"charts": {EVIL: EVIL}})
    site(str(root), "--examples", "0", "--out", str(root / "evil.html"))
    return root / "evil.html"


# what is in the file


def test_one_file_that_asks_for_nothing(parts: Parts) -> None:
    """Every address in it is data or a place in the page, or a link that only a reader follows."""
    loaded = [each.get("src") for _, each in parts.tags] + [each.get("href") for each in parts.named("link")]
    assert {address for address in loaded if address} == {"data:,"}
    assert all(str(each["href"]).startswith(("#", "https://")) for each in parts.named("a"))
    (policy,) = (each["content"] for each in parts.named("meta") if "http-equiv" in each)
    assert str(policy).startswith("default-src 'none';") and "unsafe-eval" not in str(policy)
    assert re.search(r"script-src 'sha256-[^;']+' 'sha256-[^;']+';", str(policy)), "no script but these two"


def test_every_run_is_there_with_its_result_as_it_is_on_disk(parts: Parts, bench: tuple[Store, list[Cell]]) -> None:
    store, cells = bench
    runs = {name: json.loads(text) for name, text in parts.packs.items() if name.startswith("run/")}
    assert set(runs) == {f"run/{cell.name}" for number, cell in enumerate(cells) if number != 2}
    for cell in cells[:2]:
        assert runs[f"run/{cell.name}"]["result"] == (store.directory(cell) / "result.json").read_text()
    assert parts.packs["spec.toml"] == SPEC
    assert len(json.loads(parts.packs["tables.json"])) == 4, "two tables, what is reported and what is missing"


def test_a_page_of_a_run_answers_what_a_reader_asks(parts: Parts, bench: tuple[Store, list[Cell]]) -> None:
    store, cells = bench
    cell = cells[3]
    html = json.loads(parts.packs[f"run/{cell.name}"])["html"]
    text = re.sub(r"<[^>]+>|\s+", " ", html)
    result = store.result(cell)
    typed = re.search(r"<pre[^>]*>(.*?)</pre>", html)
    assert typed and typed[1].startswith("rtk finetune --suite clean,pgd20 --threats Linf:0.02,0.05")
    assert "--strategy rift" in typed[1] and f"--seed {result.seed}" in typed[1]
    for wanted in (
        result.rows[-1].weights,
        result.dataset["sha256"]["train"],
        result.strategy["source_sha256"],
        cell.key,
    ):
        assert wanted in text
    for wanted in (
        "default: paper, section 4.1",
        "the benchmark&#39;s file",
        "rtk 0.1.0",
        "criticality",
        "interpolation",
    ):
        assert wanted in text
    assert result.environment["packages"]["torchattacks"] in text and "T-shirt/top" in text


def test_rows_on_the_front_are_shown_with_examples(parts: Parts) -> None:
    pages = [json.loads(text)["html"] for name, text in parts.packs.items() if name.startswith("run/")]
    shown = [html for html in pages if "attacked again by PGD-20 at Linf 0.05" in html]
    assert 0 < len(shown) < len(pages)
    for html in shown:
        images = Parts(html).named("img")
        assert len(images) in (3, 6) and all(str(each["src"]).startswith("data:image/png;base64,") for each in images)
        assert all(each["alt"] for each in images) and "Adversarial examples" in html


def test_the_command_of_a_run_asks_for_that_run(bench: tuple[Store, list[Cell]]) -> None:
    """Read by the command line itself, also with values that a shell would take apart."""
    from rtk.bench.cells import cells_of
    from rtk.bench.spec import Spec
    from rtk.cli import finetune
    from rtk.request import build
    from rtk.site.runs import Run

    options = {"strategy": "last-k", "lr": 0.1 + 0.2, "freeze_affine": False, "milestones": [1, 2], "patience": "none"}
    options |= {"epochs": 3, "eps": "8/255", "data_root": "a 'b' $c", "reuse_statistics": True, "images": 60}
    found = [*bench[1], *cells_of(Spec.model_validate({"name": "x", "seeds": [5], "run": [options]}))]
    for cell in found:
        rtk, verb, *typed = shlex.split(Run(cell, None, Path()).command)  # type: ignore[arg-type]
        assert (rtk, verb) == ("rtk", "finetune")
        params = finetune.command.make_context("finetune", typed, obj=["rtk"]).params
        given = {name: value for name, value in params.items() if value is not None and name not in finetune_only}
        request = build(params["strategy"], given)
        assert request.describe() == cell.request.describe()


finetune_only = ("strategy", "config", "force", "quiet", "time_limit")


def test_the_tables_hold_the_numbers_of_the_results(parts: Parts, bench: tuple[Store, list[Cell]], file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for cell in bench[1][:2]:
        score = bench[0].result(cell).rows[-1].scores["pgd20@Linf:0.05"]
        assert f'data-value="{score.accuracy}"' in text
        assert f"[{numbers.percent(score.low)}, {numbers.percent(score.high)}]" in text
    assert "&lt;b&gt;the loss&lt;/b&gt; is NaN" in text and REASON not in text, "why a run has no result"
    assert "4 of 5 runs are done" in text and "Table 2: signs" in text
    assert "RiFT (ICCV 2023), Table 1" in text and "not measured by rtk" in text
    rows = [each for each in parts.named("tr") if "data-row" in each]
    assert len(rows) == 5 and len({each["data-row"] for each in rows}) == 5


def test_what_results_say_is_text_and_never_markup(evil: Path, file: Path) -> None:
    text = evil.read_text(encoding="utf-8")
    found, plain = Parts(text), Parts(file.read_text(encoding="utf-8"))
    assert "hacked=1</script>" not in text and not found.named("img")
    assert len(found.named("script")) == len(plain.named("script"))
    for name, pack in found.packs.items():
        if name.startswith("run/"):
            inner = Parts(json.loads(pack)["html"])
            assert not inner.named("script") and not inner.named("img") and not inner.named("template")
            links = [str(each["href"]) for each in inner.named("a")]
            assert all(link == "#" or link.startswith("https://") for link in links), "no script behind a link"


def test_headings_are_in_order_and_tables_say_what_their_cells_are(parts: Parts) -> None:
    pages = [json.loads(text)["html"] for name, text in parts.packs.items() if name.startswith("run/")]
    for found in (parts, *map(Parts, pages)):
        levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and all(after <= before + 1 for before, after in itertools.pairwise(levels))
        assert all(each.get("scope") in ("col", "row", "colgroup") for each in found.named("th"))
        assert len(found.named("caption")) == len(found.named("table"))
    assert parts.named("html") == [{"lang": "en"}]


# the command


def test_the_page_needs_no_torch_without_examples(bench: tuple[Store, list[Cell]], tmp_path: Path) -> None:
    code = (
        "import sys; from rtk.cli import main\ntry: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'pandas' in sys.modules)"
    )
    arguments = ["bench", "site", str(bench[0].root), "--examples", "0", "--out", str(tmp_path / "a.html")]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "0 False False", found.stderr
    assert Parts((tmp_path / "a.html").read_text(encoding="utf-8")).named("main")


def test_a_folder_that_is_no_benchmark_and_a_row_that_is_not_there_are_refused(
    command: Command,  # noqa: F811
    bench: tuple[Store, list[Cell]],
) -> None:
    Path("empty").mkdir()
    assert "holds no spec.toml" in command("bench", "site", "empty").line
    done = command("bench", "site", str(bench[0].root), "--baseline", "linear-prob lr=0.1")
    assert done.code == 2 and "Did you mean 'linear-probe lr=0.1'?" in done.line
    done = command("bench", "site", str(bench[0].root), "--reported", "rift-table-9")
    assert done.code == 2 and "Unknown reported table" in done.line


@pytest.mark.parametrize("module", ["plotly", "jinja2"])
def test_without_the_extra_it_is_said_what_to_install(
    module: str,
    command: Command,  # noqa: F811
    bench: tuple[Store, list[Cell]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    done = command("bench", "site", str(bench[0].root), "--out", "a.html")
    assert done.code == 2 and module in done.line and "Try: pip install 'rtk[site]'" in done.line
    assert not Path("a.html").exists()


def test_data_that_is_not_here_costs_the_examples_and_nothing_else(
    command: Command,  # noqa: F811
    bench: tuple[Store, list[Cell]],
) -> None:
    root = Path(shutil.copytree(bench[0].root, "copy"))
    for cell in bench[1]:
        (root / "cells" / cell.name / "model.safetensors").unlink(missing_ok=True)
    done = command("bench", "site", "copy")
    assert done.code == 0 and "no examples: " in done.err
    packs = Parts((root / "site.html").read_text(encoding="utf-8")).packs
    told = [json.loads(text)["html"] for name, text in packs.items() if name.startswith("run/")]
    assert any("Not made on this machine: " in html for html in told)


def test_a_benchmark_without_results_has_a_page(command: Command) -> None:  # noqa: F811
    Path("new").mkdir()
    Path("new/spec.toml").write_text(SPEC)
    done = command("bench", "site", "new", "--reported", "rift-table-1")
    assert done.code == 0 and "5 of 5 cells have no result; see: rtk bench status" in done.err
    assert "No run is done yet." in Path("new/site.html").read_text()


# small parts


@given(st.floats(-1, 1))
def test_signs_are_true_ones_and_nothing_has_none(share: float) -> None:
    text = numbers.signed(share)
    assert "-" not in text and float(text.replace(numbers.MINUS, "-")) == pytest.approx(100 * share, abs=0.0501)
    assert (text[0] in f"+{numbers.MINUS}") == (float(text.replace(numbers.MINUS, "-")) != 0)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.text("ab", min_size=1, max_size=12)), max_size=12))
def test_names_hide_neither_each_other_nor_a_point(found: list[tuple[int, int, str]]) -> None:
    points = [Point(*each) for each in found]
    sides = placed(points, [each[:2] for each in found], (0, 5), (0, 5))
    assert len(sides) == len(points) and set(sides) <= {None, *SIDES}
    at = [(780 * point.x / 5, 330 * point.y / 5) for point in points]
    boxes = [box(*where, point.name, side) for where, point, side in zip(at, points, sides, strict=True) if side]
    assert not any(meet(one, other) for number, one in enumerate(boxes) for other in boxes[:number])
    assert not any(meet(one, (x, y, x, y)) for one in boxes for x, y in at)


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="part of the extra 'browser'")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield running
        running.close()


class Opened:
    """A page in the browser, with what it complained of and what it asked for beside itself."""

    def __init__(self, browser: Browser, file: Path, **context: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda problem: self.complaints.append(str(problem)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def charts(self, where: str) -> int:
        """Charts that are drawn there, once all of them are."""
        every = f"{where} .plot"
        drawn = "(every) => [...document.querySelectorAll(every)].every((plot) => plot.querySelector('.main-svg'))"
        self.page.wait_for_function(drawn, arg=every)
        return self.page.locator(every).count()

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []
        assert [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture
def opened(browser: Browser, file: Path) -> Iterator[Opened]:
    found = Opened(browser, file)
    yield found
    found.close()


def column(page: Page, header: str) -> list[str]:
    """The sort keys of a column of the first table, from top to bottom."""
    at = page.locator(f"table.board >> nth=0 >> th[data-name='{header}']").get_attribute("data-column")
    read = "(rows, at) => rows.map((row) => row.cells[at].dataset.value)"
    found: list[str] = page.locator("table.board >> nth=0 >> tbody tr").evaluate_all(read, int(str(at)))
    return found


@pytest.mark.browser
def test_numbers_in_names_sort_as_numbers(opened: Opened) -> None:
    names = ["at lr=0.01", "at lr=0.003", "at lr=1e-4", "at lr=0.03"]
    change = "(rows, names) => rows.forEach((row, i) => { row.cells[0].dataset.value = names[i]; })"
    opened.page.locator("table.board >> nth=0 >> tbody tr").evaluate_all(change, names)
    opened.page.locator("table.board").nth(0).locator("th[data-name='strategy'] button").click()
    assert column(opened.page, "strategy") == ["at lr=1e-4", "at lr=0.003", "at lr=0.01", "at lr=0.03"]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("header", "first"),
    [("clean, n = 60: accuracy, %", "descending"), ("cost: training, min", "ascending"), ("strategy", "ascending")],
)
def test_every_column_sorts_in_both_directions(opened: Opened, header: str, first: str) -> None:
    page = opened.page
    table = page.locator("table.board").nth(0)
    for order in (first, "ascending" if first == "descending" else "descending"):
        table.locator(f"th[data-name='{header}'] button").click()
        found = [value for value in column(page, header) if value]
        keys = found if header == "strategy" else [float(value) for value in found]
        assert keys == sorted(keys, reverse=order == "descending") and len(keys) > 2  # type: ignore[type-var]
        assert column(page, header)[len(keys) :] == [""] * (4 - len(keys)), "what is not known stays below"
        assert table.locator(f"th[aria-sort='{order}']").get_attribute("data-name") == header
        assert page.locator("#said").inner_text() == f"Sorted by {header}, {order}."
    assert table.locator("th[aria-sort]").count() == table.locator("th button.sort").count()


@pytest.mark.browser
def test_words_and_flags_filter_rows_and_their_points(opened: Opened) -> None:
    page = opened.page
    points = "() => document.querySelector('.plot').data.flatMap((trace) => trace.customdata ?? []).length"
    assert opened.charts("#board") == 4
    assert page.evaluate(points) == 4
    page.get_by_label("Filter").fill("probe  LR=0.5")
    page.get_by_text("1 of 5 rows").wait_for()
    assert page.locator("table.board >> nth=0 >> tbody tr:visible").count() == 1
    page.wait_for_function(f"() => ({points})() === 1")
    page.get_by_label("Filter").fill("")
    page.get_by_label("on the Pareto front").check()
    page.wait_for_function("() => document.querySelectorAll('tr[data-row]:not([hidden])').length < 5")
    shown = page.locator("tr[data-row]:visible")
    assert shown.count() == shown.locator("text=front").count() > 0


@pytest.mark.browser
def test_a_run_opens_and_back_leads_to_where_one_was(opened: Opened) -> None:
    page = opened.page
    page.set_viewport_size({"width": 1280, "height": 500})
    link = page.get_by_role("link", name="rift", exact=True)
    link.scroll_into_view_if_needed()
    before = page.evaluate("scrollY")
    link.click()
    heading = page.locator("#run h1")
    assert heading.inner_text() == "rift" and heading.evaluate("(it) => it === document.activeElement")
    assert page.title() == "rift · tiny" and page.locator("#board").is_hidden()
    assert opened.charts("#run") >= 5, "two of its own, loss, score, classes"
    page.go_back()
    page.locator("#board").wait_for()
    assert page.evaluate("scrollY") == before and link.evaluate("(it) => it === document.activeElement")
    page.go_forward()
    heading.wait_for()
    page.get_by_role("link", name="All results").click()
    page.locator("#board").wait_for()
    assert page.title() == "tiny" and page.locator("#run").is_hidden()


@pytest.mark.browser
def test_a_link_to_a_run_leads_there_and_one_to_no_run_says_so(browser: Browser, file: Path, bench: Any) -> None:
    found = Opened(browser, file)
    for fragment, heading in ((bench[1][1].name, "linear-probe lr=0.5"), ("no/../%E0%A4%A", "No such run")):
        found.page.goto(f"{file.as_uri()}#run/{fragment}")
        found.page.get_by_role("heading", level=1, name=heading).wait_for()
    found.close()


@pytest.mark.browser
def test_what_the_page_carries_can_be_saved(opened: Opened, bench: tuple[Store, list[Cell]], tmp_path: Path) -> None:
    page, (store, cells) = opened.page, bench
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download the tables as CSV").click()
    assert saved.value.suggested_filename == "tables.csv"
    assert saved.value.path().read_text().startswith("table,strategy,data,item,n,")
    page.evaluate("name => { location.hash = `#run/${name}` }", cells[0].name)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download result.json").click()
    assert saved.value.path().read_bytes() == (store.directory(cells[0]) / "result.json").read_bytes()


@pytest.mark.browser
def test_everything_can_be_done_with_the_keyboard_alone(opened: Opened) -> None:
    page = opened.page
    active = "() => document.activeElement"

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(80):
            page.keyboard.press(key)
            if page.evaluate(f"({active})().matches({json.dumps(selector)})"):
                shown = page.evaluate(f"getComputedStyle(({active})()).outlineStyle")
                assert shown != "none", f"{selector}: the focus is not seen"
                return
        raise AssertionError(f"{selector}: not reached")

    tab_to("a.skip")
    tab_to("#filter")
    page.keyboard.type("probe")
    tab_to("input[value=calm]")
    page.keyboard.press("Space")
    assert page.locator("input[value=calm]").is_checked()
    page.keyboard.press("Space")
    tab_to("th[data-name=strategy] button")
    page.keyboard.press("Enter")
    assert page.locator("th[data-name=strategy]").nth(0).get_attribute("aria-sort") == "ascending"
    tab_to("button.flag")
    tip, note = page.locator("#tip"), page.evaluate(f"({active})().getAttribute('aria-describedby').split(' ')[0]")
    assert tip.is_visible() and tip.locator("p").nth(0).inner_text() == page.locator(f"#{note}").text_content()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    tab_to("a[href^='#run/']")
    page.keyboard.press("Enter")
    page.locator("#run h1").wait_for()
    tab_to("summary")
    page.keyboard.press("Enter")
    assert page.locator("#run details[open] table").nth(0).is_visible()
    tab_to("a[href='#']", "Shift+Tab")
    page.keyboard.press("Enter")
    page.locator("#board").wait_for()
    assert page.evaluate(f"({active})().matches('a[href^=\"#run/\"]')"), "where one was"


@pytest.mark.browser
def test_a_flag_is_explained_where_one_points_or_taps(opened: Opened) -> None:
    page, tip = opened.page, opened.page.locator("#tip")
    flag = page.locator("button.flag").nth(0)
    for ask in (flag.hover, flag.click):
        ask()
        assert tip.is_visible() and len(tip.inner_text()) > 20
        box, at = tip.bounding_box(), flag.bounding_box()
        assert box and at and box["x"] >= 0 and box["x"] + box["width"] <= 1280 and abs(box["y"] - at["y"]) < 400
        page.keyboard.press("Escape")
        page.mouse.move(5, 5)
        assert tip.is_hidden()


@pytest.mark.browser
def test_markup_in_results_is_shown_and_not_run(browser: Browser, evil: Path) -> None:
    found = Opened(browser, evil)
    page = found.page
    found.charts("#board")
    assert EVIL[:9] in page.locator("table.board").nth(0).inner_text()
    for link in page.locator("a[href^='#run/']").evaluate_all("(all) => all.map((it) => it.getAttribute('href'))"):
        page.evaluate("link => { location.hash = link }", link)
        page.locator("#run h1").wait_for()
        found.charts("#run")
    assert page.evaluate("window.hacked") is None
    found.close()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (800, "dark"), (1280, "light")])
def test_no_rule_of_accessibility_is_broken_at_any_width_in_either_scheme(
    browser: Browser, file: Path, bench: Any, width: int, scheme: Any
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="part of the extra 'browser'").Axe()
    found = Opened(browser, file, viewport={"width": width, "height": 900}, color_scheme=scheme)
    for where, fragment in (("#board", ""), ("#run", f"run/{bench[1][3].name}")):
        found.page.evaluate("fragment => { location.hash = fragment }", fragment)
        found.page.locator(where).wait_for()
        found.charts(where)
        found.page.locator("details").evaluate_all("(all) => all.forEach((it) => { it.open = true })")
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
        broken = axe.run(found.page).response["violations"]
        assert [(each["id"], [node["html"][:120] for node in each["nodes"]][:3]) for each in broken] == []
    found.close()


@pytest.mark.browser
def test_paper_shows_the_tables_and_no_controls(opened: Opened, tmp_path: Path) -> None:
    opened.charts("#board")
    opened.page.emulate_media(media="print")
    assert opened.page.locator("#controls").is_hidden() and opened.page.locator("table.board").nth(0).is_visible()
    assert len(opened.page.pdf()) > 20_000
