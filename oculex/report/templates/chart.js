"use strict";
// Values under the pointer. The pages say everything without this; text goes in as text, never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const short = (v) => Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en")
    : v !== 0 && Math.abs(v) < 1e-3 ? v.toExponential(2) : String(Number(v.toPrecision(3)));
  const written = (v, share) => share ? (100 * v).toFixed(1) + "\u202f%" : short(v);

  function show(lines, x, y) {
    tip.replaceChildren(...lines.map(([text, kind]) => {
      const line = document.createElement("div");
      line.textContent = text;
      if (kind) line.className = kind;
      return line;
    }));
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(8, Math.min(room, x + 14)) + "px";
    tip.style.top = Math.max(8, y - tip.offsetHeight - 14) + "px";
  }

  const local = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const outside = (svg, x, y) => new DOMPoint(x, y).matrixTransform(svg.getScreenCTM());

  function chart(svg) {
    const data = JSON.parse(svg.dataset.chart);
    const [left, right, x0, x1] = data.x, [bottom, top, y0, y1] = data.y;
    const sx = (v) => x1 > x0 ? left + (v - x0) / (x1 - x0) * (right - left) : (left + right) / 2;
    const sy = (v) => bottom + (v - y0) / (y1 - y0) * (top - bottom);
    const all = [...new Set(data.series.flatMap(([, points]) => points.map((p) => p[0])))].sort((a, b) => a - b);
    const layer = document.createElementNS(SVG, "g");
    layer.setAttribute("class", "cursor");
    svg.append(layer);
    let at = all.length - 1;

    function draw(pointer) {
      const x = all[at], lines = [[short(x) + " " + data.unit, "head"]];
      const rule = document.createElementNS(SVG, "path");
      rule.setAttribute("d", `M${sx(x)} ${top}V${bottom}`);
      layer.replaceChildren(rule);
      data.series.forEach(([name, points], index) => {
        const p = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
        if (Math.abs(p[0] - x) > 0.02 * (x1 - x0)) return;
        const dot = document.createElementNS(SVG, "circle");
        dot.setAttribute("class", "s" + index % 6);
        dot.setAttribute("cx", sx(p[0]));
        dot.setAttribute("cy", sy(p[1]));
        dot.setAttribute("r", 4);
        layer.append(dot);
        const range = p.length > 2 ? ` (${written(p[2], data.share)} to ${written(p[3], data.share)})` : "";
        lines.push([`${name}  ${written(p[1], data.share)}${range}`, "s" + index % 6]);
      });
      const place = pointer || outside(svg, sx(x), (top + bottom) / 2);
      show(lines, place.x, place.y);
    }

    svg.addEventListener("pointermove", (event) => {
      const x = x0 + (local(svg, event).x - left) / (right - left) * (x1 - x0);
      at = all.reduce((best, v, i) => Math.abs(v - x) < Math.abs(all[best] - x) ? i : best, 0);
      draw({ x: event.clientX, y: event.clientY });
    });
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(all.length - 1, at + step));
      draw();
    });
    for (const end of ["pointerleave", "blur"]) svg.addEventListener(end, () => { layer.replaceChildren(); tip.hidden = true; });
  }

  function heat(svg) {
    const data = JSON.parse(svg.dataset.heat);
    const counts = new Map(data.cells.map(([r, c, n]) => [r + "," + c, n]));
    svg.addEventListener("pointermove", (event) => {
      const p = local(svg, event);
      const row = Math.floor((p.y - 1) / data.cell), column = Math.floor((p.x - data.left) / data.cell);
      const truth = data.names[row], answer = data.names[column];
      if (truth === undefined || answer === undefined) { tip.hidden = true; return; }
      const n = counts.get(row + "," + column) || 0;
      const said = row === column ? `${n} of ${data.totals[row]} right` : `${n} of ${data.totals[row]} taken for ${answer}`;
      show([[truth, "head"], [said, ""]], event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

  document.querySelectorAll("svg[data-chart]").forEach(chart);
  document.querySelectorAll("svg[data-heat]").forEach(heat);
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
