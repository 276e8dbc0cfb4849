
// ------------------------------------------------------------------------------------ line charts
// Drawn from data-chart, and again when a control changes.
const HEIGHT = 260, BOTTOM = HEIGHT - 40, TOP = 10;
const short = (value) => {
  const number = Number(value.toPrecision(4));
  return (number && Math.abs(number) < 1e-4 ? number.toExponential() : String(number)).replace("-", "−");
};

// Exponential moving average without the bias towards its start, as in TensorBoard.
function smooth(points, weight) {
  let sum = 0, total = 0;
  return points.map(([x, y]) => {
    sum = sum * weight + y * (1 - weight);
    total = total * weight + 1 - weight;
    return [x, sum / total];
  });
}

function ticksOf(low, high, log) {
  if (log) {
    const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
    const powers = Array.from({ length: to - from + 1 }, (_, i) => 10 ** (from + i));
    const fine = powers.flatMap((power) => [power, 2 * power, 5 * power]);
    const start = fine.findLastIndex((tick) => tick <= low * 1.000001), end = fine.findIndex((tick) => tick >= high / 1.000001);
    const ticks = fine.slice(Math.max(0, start), end < 0 ? undefined : end + 1);
    return ticks.length <= 8 ? ticks : powers;
  }
  const span = high - low || Math.abs(high) || 1, power = 10 ** Math.floor(Math.log10(span / 5));
  const size = [1, 2, 5, 10].map((s) => s * power).find((s) => s * 5 >= span);
  const first = Math.floor(low / size + 1e-9), last = Math.max(first + 1, Math.ceil(high / size - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * size);
}

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.svg = figure.querySelector("svg");
    Object.assign(this, JSON.parse(figure.dataset.chart));
    this.weight = 0;
    this.at = null;
    this.hidden = new Set();
    this.tip = document.createElement("div");
    this.tip.className = "hover";
    this.tip.setAttribute("role", "status");
    this.tip.hidden = true;
    figure.append(this.tip);
    this.svg.addEventListener("pointermove", (event) => this.hover(event.clientX));
    this.svg.addEventListener("pointerdown", (event) => this.hover(event.clientX));
    for (const end of ["pointerleave", "blur"]) this.svg.addEventListener(end, () => this.point(null));
    this.svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const xs = this.xs(), now = this.at === null ? (step > 0 ? -1 : xs.length) : xs.indexOf(this.at);
      this.point(xs[clamp(now + step, 0, xs.length - 1)]);
    });
    figure.querySelector("[data-log]").addEventListener("click", ({ target }) => {
      this.log = !this.log;
      target.setAttribute("aria-pressed", this.log);
      this.draw();
    });
    const positive = this.lines.every((line) => line.points.every(([, y]) => y > 0));
    // Decibels are logarithms already.
    figure.querySelector("[data-log]").hidden = !positive || this.unit === "dB";
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  get shown() { return this.lines.filter((line) => !this.hidden.has(line.label)); }

  xs() { return [...new Set(this.shown.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b); }

  draw() {
    // In pixels of the screen, so that the text has one size in all charts.
    const width = this.width = this.figure.clientWidth, RIGHT = width - 8;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const lines = this.shown.map((line) => ({ ...line, smooth: this.weight && !line.dashed && this.title !== "Learning rate" ? smooth(line.points, this.weight) : line.points }));
    const all_ = lines.flatMap((line) => line.points), ys = all_.map(([, y]) => y), xs = all_.map(([x]) => x);
    this.drawn = lines;
    if (!all_.length) { this.svg.replaceChildren(); this.point(null); return; }
    const least = Math.min(...ys), most = Math.max(...ys), ticks = ticksOf(least, most, this.log);
    const scale = this.log ? Math.log10 : Number, low = scale(Math.min(ticks[0], least)), high = scale(Math.max(ticks.at(-1), most));
    const labels = ticks.map(short), left = 12 + Math.round(7.2 * Math.max(...labels.map((label) => label.length)));
    const from = Math.min(...xs), to = Math.max(...xs);
    this.place = ([x, y]) => [left + (x - from) / (to - from || 1) * (RIGHT - left), BOTTOM - (scale(y) - low) / (high - low || 1) * (BOTTOM - TOP)];
    this.unplace = (px) => from + (px - left) / (RIGHT - left) * (to - from);
    const path = (points) => "M" + points.map((p) => this.place(p).map((v) => v.toFixed(1)).join(" ")).join("L");
    const parts = ticks.map((tick, i) => {
      const y = this.place([from, tick])[1];
      return `<line class="grid" x1="${left}" x2="${RIGHT}" y1="${y}" y2="${y}"/><text x="${left - 8}" y="${y + 4}" text-anchor="end">${labels[i]}</text>`;
    });
    for (const x of ticksOf(from, to, false)) {
      if (Number.isInteger(x) && x >= from && x <= to) parts.push(`<text x="${this.place([x, least])[0]}" y="${HEIGHT - 22}" text-anchor="middle">${x.toLocaleString("en")}</text>`);
    }
    parts.push(`<text x="${RIGHT}" y="${HEIGHT - 4}" text-anchor="end">${this.across}</text>`);
    for (const line of lines) {
      const [x, y] = this.place(line.smooth.at(-1));
      const raw = line.smooth === line.points ? "" : `<path class="raw" d="${path(line.points)}"/>`;
      parts.push(`<g class="s${line.color}">${raw}<path class="${line.dashed ? "dashed" : line.broken ? "broken" : ""}" d="${path(line.smooth)}"/><circle cx="${x}" cy="${y}" r="3"/></g>`);
    }
    this.svg.innerHTML = parts.join("") + '<g class="marks"></g>';
    this.point(this.at);
  }

  hover(clientX) {
    const x = this.unplace(clientX - this.svg.getBoundingClientRect().left), xs = this.xs();
    this.point(xs.reduce((best, one) => Math.abs(one - x) < Math.abs(best - x) ? one : best, xs[0]));
  }

  // The cross at a place, and the values of all lines nearest to it.
  point(x) {
    this.at = x ?? null;
    const marks = this.svg.querySelector(".marks");
    this.tip.hidden = this.at === null || !marks;
    if (this.tip.hidden) { marks?.replaceChildren(); return; }
    const near = this.drawn.map((line) => [line, line.smooth.reduce((best, p) => Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best)]);
    const [px] = this.place([x, near[0][1][1]]);
    marks.innerHTML = `<line class="cross" x1="${px}" x2="${px}" y1="${TOP}" y2="${BOTTOM}"/>` + near.map(([line, p]) => {
      const [cx, cy] = this.place(p);
      return `<g class="s${line.color}"><circle cx="${cx}" cy="${cy}" r="4"/></g>`;
    }).join("");
    const head = document.createElement("div");
    head.textContent = `${this.across} ${Math.round(x).toLocaleString("en")}`;
    this.tip.replaceChildren(head, ...near.map(([line, [, y]]) => {
      const row = document.createElement("div"), dot = document.createElement("i");
      row.className = `s${line.color}`;
      row.append(dot, `${line.label} ${short(y)}${this.unit ? " " + this.unit : ""}`);
      return row;
    }));
    const share = px / this.width;
    Object.assign(this.tip.style, share > 0.5 ? { right: `${100 * (1 - share) + 2}%`, left: "" } : { left: `${100 * share + 2}%`, right: "" });
  }
}

const charts = all(".chart[data-chart]").map((figure) => new Chart(figure));
document.addEventListener("input", ({ target }) => {
  if (!target.matches("[data-smooth]")) return;
  target.nextElementSibling.textContent = Number(target.value).toFixed(2);
  charts.forEach((chart) => { chart.weight = Number(target.value); chart.draw(); });
});
// A run is hidden in all charts, the line of a single run in its own.
document.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-line]");
  if (!button) return;
  const name = button.dataset.line, show = button.getAttribute("aria-pressed") === "false";
  const own = button.closest(".chart"), scope = document.querySelector("[data-runs]") ? document : own;
  all("[data-line]", scope).filter((other) => other.dataset.line === name).forEach((other) => other.setAttribute("aria-pressed", show));
  charts.filter((chart) => scope === document || chart.figure === own).forEach((chart) => {
    chart.hidden[show ? "delete" : "add"](name);
    chart.draw();
  });
});
