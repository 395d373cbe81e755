"use strict";
(() => {
  const one = (selector, from = document) => from.querySelector(selector);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];

  // packed parts: base64 of gzip, by name
  const packs = new Map(all("script[data-pack]").map((each) => [each.dataset.pack, each]));
  async function unpack(name) {
    const bytes = Uint8Array.from(atob(packs.get(name).textContent.trim()), (sign) => sign.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  // charts; Plotly is unpacked when the first one is drawn, and runs because the page's policy knows its hash
  let plotly = null;
  const loaded = () => (plotly ??= unpack("plotly").then((text) => {
    document.head.append(Object.assign(document.createElement("script"), { textContent: text }));
  }));
  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const get = (name) => style.getPropertyValue(`--${name}`).trim();
    return { ink: get("ink"), line: get("line"), paper: get("paper"), font: get("sans"), roles: [0, 1, 2, 3, 4, 5, 6].map((n) => get(`c${n}`)) };
  };

  function painted(trace, look) {
    const colour = look.roles[trace.meta.role % look.roles.length];
    const error = { color: trace.type === "bar" ? look.ink : `${colour}70`, thickness: 1.2, width: 3 };
    const found = { ...trace, marker: { ...trace.marker, color: colour }, textfont: { color: look.ink, size: 12 } };
    if (trace.type !== "bar") found.line = { ...trace.line, color: colour };
    if (trace.error_x) found.error_x = { ...trace.error_x, ...error };
    if (trace.error_y) found.error_y = { ...trace.error_y, ...error };
    return found;
  }

  // a title of an axis in lines that fit; its words are escaped, and an entity holds no space
  function wrapped(axis, pixels) {
    const lines = [""];
    for (const word of axis.title ? axis.title.text.split(" ") : []) {
      if (lines.at(-1) && (lines.at(-1).length + word.length) * 7.5 > pixels) lines.push("");
      lines.push(`${lines.pop()} ${word}`.trim());
    }
    return { ...axis, title: { text: lines.join("<br>") } };
  }

  // of a trace whose points are rows of a table, those that are shown; whatever is listed point by point is cut alike
  function subset(value, keep) {
    if (Array.isArray(value)) return value.length === keep.length ? value.filter((_, place) => keep[place]) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, subset(each, keep)]));
  }

  function draw(plot) {
    const { data, layout } = JSON.parse(plot.dataset.chart);
    const look = colours();
    const narrow = plot.clientWidth < 520;
    const hidden = new Set(all("tr[data-row][hidden]").map((row) => row.dataset.row));
    const traces = data.map((trace) => {
      const found = trace.customdata ? subset(trace, trace.customdata.map((row) => !hidden.has(row))) : trace;
      return painted(narrow && found.mode === "markers+text" ? { ...found, mode: "markers" } : found, look);
    });
    const axis = { gridcolor: look.line, linecolor: look.line, zerolinecolor: look.line, fixedrange: true, automargin: true };
    Plotly.react(plot, traces, {
      margin: { l: 55, r: 15, t: 15, b: 50 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: look.font, size: 13, color: look.ink }, dragmode: false, hoverlabel: { align: "left" },
      ...layout,
      xaxis: { ...axis, ...wrapped(layout.xaxis, plot.clientWidth - 150) },
      yaxis: { ...axis, ...wrapped(layout.yaxis, plot.clientHeight - 120) },
    }, { displayModeBar: false, responsive: true });
    if (!plot.dataset.drawn && layout.meta === "rows") {
      plot.on("plotly_click", (event) => {
        const link = one(`tr[data-row="${CSS.escape(event.points[0].customdata)}"] a[href^="#run/"]`);
        if (link) location.hash = link.getAttribute("href");
      });
    }
    plot.dataset.drawn = "yes";
  }
  const visible = (within) => all(".plot", within).filter((plot) => plot.offsetParent);
  async function drawAll(within = document) {
    if (!visible(within).length) return;
    await loaded();
    visible(within).forEach(draw);
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => { document.documentElement.classList.add("print"); drawAll(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("print"); drawAll(); });

  // what scrolls sideways can be reached by keyboard, and what does not is no stop on the way
  const reach = () => all(".scroll").filter((each) => each.offsetParent).forEach((each) => {
    each.tabIndex = each.scrollWidth > each.clientWidth || each.scrollHeight > each.clientHeight ? 0 : -1;
  });
  addEventListener("resize", reach);
  addEventListener("toggle", reach, true);

  // sorting
  const said = one("#said");
  function sort(header) {
    const table = header.closest("table");
    const column = Number(header.dataset.column);
    const number = header.dataset.kind === "number";
    const before = header.getAttribute("aria-sort");
    const order = before === "none" ? header.dataset.first : before === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.value;
    const parts = (text) => text.split(/(\d+(?:\.\d+)?(?:e[-+]?\d+)?)/);  // every other part is a number
    const text = (a, b) => {
      const [left, right] = [parts(a), parts(b)];
      for (let i = 0; i < Math.min(left.length, right.length); i++) {
        const order = i % 2 ? left[i] - right[i] : left[i].localeCompare(right[i], "en");
        if (order) return order;
      }
      return left.length - right.length;
    };
    const compare = (a, b) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // what is not known stays below
      return sign * (number ? a - b : text(a, b));
    };
    all("th[aria-sort]", table).forEach((each) => each.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", order);
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    said.textContent = `Sorted by ${header.dataset.name}, ${order}.`;
  }
  all("th[aria-sort] button").forEach((button) => button.addEventListener("click", () => sort(button.closest("th"))));

  // filtering
  const controls = one("#controls");
  const rows = all("tr[data-row]");
  function filter() {
    const words = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const flags = all("input[type=checkbox]:checked", controls).map((box) => box.value);
    let shown = 0;
    for (const row of rows) {
      const found = row.dataset.flags.split(" ");
      row.hidden = !words.every((word) => row.dataset.text.includes(word)) || !flags.every((flag) => found.includes(flag));
      shown += !row.hidden;
    }
    one("#shown").textContent = `${shown} of ${rows.length} rows`;
    drawAll(board);
  }
  let waiting;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(filter, 80); };
  controls.addEventListener("input", later);
  controls.addEventListener("reset", () => setTimeout(filter));
  controls.addEventListener("submit", (event) => { event.preventDefault(); filter(); });

  // what a flag means: beside it while it is pointed at or has the focus, and in the list below its table
  const tip = one("#tip");
  let leaving;
  let shown = null;
  function place() {
    const at = shown.getBoundingClientRect();
    const box = tip.getBoundingClientRect();
    const above = at.bottom + box.height + 6 > innerHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - box.width - 8))}px`;
    tip.style.top = `${above ? Math.max(8, at.top - box.height - 6) : at.bottom + 6}px`;
  }
  function show(flag) {
    clearTimeout(leaving);
    const texts = flag.getAttribute("aria-describedby").split(" ").map((id) => document.getElementById(id));
    tip.replaceChildren(...texts.map((text) => Object.assign(document.createElement("p"), { textContent: text.textContent })));
    tip.showPopover();
    shown = flag;
    place();
  }
  const hide = () => { clearTimeout(leaving); if (tip.matches(":popover-open")) tip.hidePopover(); };
  const leave = () => { clearTimeout(leaving); leaving = setTimeout(hide, 250); };
  for (const flag of all("button.flag")) {
    flag.addEventListener("mouseenter", () => show(flag));
    flag.addEventListener("focus", () => show(flag));
    flag.addEventListener("click", () => show(flag));
    flag.addEventListener("mouseleave", leave);
    flag.addEventListener("blur", hide);
  }
  tip.addEventListener("mouseenter", () => clearTimeout(leaving));
  tip.addEventListener("mouseleave", leave);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", () => { if (tip.matches(":popover-open")) place(); }, { passive: true, capture: true });

  // files that the page carries
  function offer(name, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-file]");
    if (!button) return;
    const { file, pack } = button.dataset;
    offer(file, pack.startsWith("run/") ? JSON.parse(await unpack(pack)).result : await unpack(pack));
  });

  // one run after another
  const board = one("#board");
  const page = one("#run");
  const title = document.title;
  let left = null;
  let current = 0;
  function asked() {
    try {
      return location.hash.startsWith("#run/") ? decodeURIComponent(location.hash.slice(1)) : null;
    } catch {
      return location.hash;
    }
  }
  async function route() {
    const mine = ++current;
    const name = asked();
    hide();
    if (name === null) {
      page.hidden = true;
      board.hidden = false;
      document.title = title;
      page.replaceChildren();
      reach();
      drawAll(board);
      if (left) {
        scrollTo(0, left.scroll);
        left.link?.focus({ preventScroll: true });
        left = null;
      }
      return;
    }
    if (page.hidden) left = { scroll: scrollY, link: one(`a[href="${CSS.escape(location.hash)}"]`) };
    const text = packs.has(name) ? JSON.parse(await unpack(name)).html : one("#missing").innerHTML;
    if (mine !== current) return;  // another was asked for meanwhile
    page.innerHTML = text;
    page.hidden = false;
    board.hidden = true;
    const heading = one("h1", page);
    document.title = `${heading.textContent} · ${title}`;
    scrollTo(0, 0);
    heading.focus({ preventScroll: true });
    reach();
    drawAll(page);
  }
  addEventListener("hashchange", route);
  history.scrollRestoration = "manual";
  route();
})();
