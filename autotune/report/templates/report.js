"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const all = (query, inside = document) => [...inside.querySelectorAll(query)];
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down", "hexagon", "pentagon"];
  const narrow = () => window.innerWidth < 640;
  const config = () => ({ displayModeBar: narrow() ? false : "hover", displaylogo: false, responsive: true, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });

  // selection -------------------------------------------------------------------------------------------
  let chosen = (all(".panel:not([hidden])")[0] || { dataset: {} }).dataset.name || "";

  function select(name) {
    chosen = name;
    all(".panel").forEach((panel) => { panel.hidden = panel.dataset.name !== name; });
    all("button.pick").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.pick === name)));
    all("tr[data-pick]").forEach((row) => row.classList.toggle("on", row.dataset.pick === name));
    drawFrontier();
  }

  let fading;
  function tell(text) {
    const toast = byId("toast");
    toast.textContent = text;
    toast.classList.add("on");
    clearTimeout(fading);
    fading = setTimeout(() => toast.classList.remove("on"), 4000);
  }

  async function copy(panel) {
    const name = panel.dataset.name;
    const code = panel.querySelector(".lines");
    if (!code) return tell(`${name} is selected`);
    const said = panel.querySelector(".copied");
    let done = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      done = true;
    } catch (error) { // no clipboard on file://, or no permission
      const area = document.createElement("textarea");
      area.value = code.textContent;
      area.style.position = "fixed";
      area.style.opacity = "0";
      const before = document.activeElement;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      if (before && before.focus) before.focus({ preventScroll: true });
    }
    if (!done) getSelection().selectAllChildren(code);
    said.textContent = done ? "Copied." : "Selected: press Ctrl+C or Cmd+C.";
    tell(done ? `${name}: its two lines of use are copied` : `${name} is selected; its two lines could not be copied`);
  }

  function pick(name) {
    select(name);
    copy(all(".panel").find((panel) => panel.dataset.name === name));
  }

  all("tr[data-pick]").forEach((row) => row.addEventListener("click", () => pick(row.dataset.pick)));
  all("button.copy").forEach((button) => button.addEventListener("click", () => copy(button.closest(".panel"))));

  // sorting ---------------------------------------------------------------------------------------------
  function sortBy(table, index) {
    const heads = all("thead th", table);
    const down = heads[index].getAttribute("aria-sort") === "ascending";
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== index ? "none" : down ? "descending" : "ascending"));
    const numeric = heads[index].classList.contains("n");
    const body = table.tBodies[0];
    const key = (row) => row.cells[index].dataset.sort;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows);
  }
  all("table.sortable").forEach((table) => all("thead th .sort", table).forEach((button, index) => {
    button.addEventListener("click", () => sortBy(table, index));
  }));

  // plots -----------------------------------------------------------------------------------------------
  const axisX = byId("axis-x"), axisY = byId("axis-y");
  const { x: xs, y: ys, groups } = data.frontier;
  [[axisX, xs], [axisY, ys]].forEach(([select_, axes]) => axes.forEach((axis) => select_.add(new Option(axis.title, axis.key))));

  function layout(legend, more) {
    const line = colour("--line"), ink = colour("--ink");
    const axis = (given) => ({ gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...given });
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", 
      margin: { l: 56, r: 12, t: narrow() ? 10 : 28, b: 46 }, font: { color: ink, size: 13, family: "system-ui, sans-serif" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") },
      hoverlabel: { align: "left", bgcolor: colour("--card"), bordercolor: colour("--faint"), font: { size: 12, color: ink } },
      legend: { orientation: "h", y: legend, x: 0, font: { size: 12 } }, ...more(axis),
    };
  }

  const bars = (points, key) => {
    const value = (p) => p.values[key];
    const at = (side) => points.map((p) => (p.ci[key] ? Math.max(0, side ? p.ci[key][1] - value(p) : value(p) - p.ci[key][0]) : 0));
    return { type: "data", symmetric: false, array: at(1), arrayminus: at(0), thickness: 1.2, width: 3 };
  };

  function trace(group, x, y) {
    const points = group.points.filter((p) => x in p.values && y in p.values);
    if (!points.length) return null;
    const faint = group.kind === "trials";
    const tone = faint ? colour("--faint") : colour(group.kind === "presets" ? "--m0" : `--m${group.place % 8}`);
    const order = group.kind === "trials" ? points : [...points].sort((a, b) => a.values[x] - b.values[x]);
    const on = order.map((p) => group.kind === "presets" && p.pick === chosen);
    const found = {
      type: "scatter", name: escaped(group.name), mode: faint ? "markers" : "lines+markers",
      x: order.map((p) => p.values[x]), y: order.map((p) => p.values[y]),
      text: order.map((p) => p.lines.map(escaped).join("<br>")), customdata: order.map((p) => p.pick || ""),
      hovertemplate: "%{text}<br>%{x:.3g}, %{y:.4g}<extra></extra>",
      line: { width: group.kind === "presets" ? 2 : 1, color: tone, dash: group.kind === "presets" ? "solid" : "dot" },
      marker: {
        color: tone, opacity: faint ? 0.75 : 1, size: faint ? 7 : on.map((o) => (o ? 15 : 9)),
        symbol: faint ? "circle" : group.kind === "presets" ? "circle" : SYMBOLS[(group.place + 1) % SYMBOLS.length],
        line: { width: faint ? 0 : on.map((o) => (o ? 3 : 0)), color: colour("--ink") },
      },
    };
    if (!faint) {
      found.error_x = { ...bars(order, x), color: tone };
      found.error_y = { ...bars(order, y), color: tone };
    }
    return found;
  }

  function drawFrontier() {
    const x = xs.find((axis) => axis.key === axisX.value), y = ys.find((axis) => axis.key === axisY.value);
    if (!x || !y) return;
    byId("direction").textContent = y.better;
    const traces = groups.map((group) => trace(group, x.key, y.key)).filter(Boolean);
    const positive = traces.every((t) => t.y.every((value) => value > 0));
    Plotly.react("plot-frontier", traces, layout(narrow() ? -0.3 : -0.18, (axis) => ({
      hovermode: "closest",
      xaxis: axis({ title: { text: narrow() ? x.key.replace("_", " ") : x.title } }),
      yaxis: axis({ title: { text: escaped(y.title) }, ...(y.log && positive ? { type: "log", dtick: narrow() ? 1 : "D2", tickformat: "~g" } : {}) }),
    })), config());
  }

  function drawHistory() {
    const { trials, hypervolume, best, kind } = data.history;
    const step = (name, values, tone, dash, second) => ({
      type: "scatter", mode: "lines", name: escaped(name), x: trials, y: values, line: { shape: "hv", color: tone, dash, width: 2 },
      ...(second ? { yaxis: "y2" } : {}),
    });
    const names = Object.keys(best);
    const traces = [step("hypervolume", hypervolume, colour("--ink"), "solid", false)];
    names.forEach((name, i) => traces.push(step(`${kind === "speedup" ? "best speedup" : "least compute"}, ${name}`, best[name], colour(`--m${i % 8}`), ["dash", "dot", "dashdot", "longdash"][i % 4], true)));
    Plotly.react("plot-history", traces, layout(narrow() ? -0.5 : -0.3, (axis) => ({
      xaxis: axis({ title: { text: "trials" } }), yaxis: axis({ title: { text: "hypervolume" }, rangemode: "tozero" }),
      ...(names.length ? { yaxis2: axis({ title: { text: kind === "speedup" ? "speedup (x)" : "compute fraction" }, overlaying: "y", side: "right", showgrid: false, rangemode: "tozero", tickmode: "auto", tickformat: kind === "speedup" ? ".1f" : ".2f" }) } : {}),
    })), config());
  }

  function draw() {
    drawFrontier();
    drawHistory();
  }

  axisX.addEventListener("change", drawFrontier);
  axisY.addEventListener("change", drawFrontier);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  matchMedia("print").addEventListener("change", draw);
  matchMedia("(max-width: 640px)").addEventListener("change", draw);
  select(chosen);
  drawHistory();
  if (xs.length && ys.length) byId("plot-frontier").on("plotly_click", (event) => {
    const name = event.points.map((point) => point.customdata).find(Boolean);
    if (name) pick(name);
  });
  document.documentElement.dataset.ready = "yes";
})();
