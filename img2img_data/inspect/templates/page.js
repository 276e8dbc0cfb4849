"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const typing = (target) => target.matches("select, textarea, [contenteditable]")
  || (target.matches("input") && !["range", "radio", "checkbox"].includes(target.type));

// ---------------------------------------------------------------------------- theme, keys, print
const top_ = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
top_.classList.add("js");
// Storage throws where a browser forbids it to files.
try { if (localStorage.theme) top_.dataset.theme = localStorage.theme; } catch { /* system theme */ }
function switchTheme() {
  const system = dark.matches ? "dark" : "light";
  const next = (top_.dataset.theme ?? system) === "dark" ? "light" : "dark";
  if (next === system) delete top_.dataset.theme; else top_.dataset.theme = next;
  try { if (next === system) delete localStorage.theme; else localStorage.theme = next; } catch { /* this visit only */ }
}
function showKeys() {
  document.querySelector("dialog.keys").showModal();
}
let folded = [];
addEventListener("beforeprint", () => {
  folded = all("details:not([open])");
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));

// ------------------------------------------------------------------------------------- controls
document.addEventListener("input", ({ target }) => {
  if (target.matches(".compare input")) cut(target, target.value);
  else if (target.matches("[data-frame]")) showFrame(target);
  else if (target.matches("[data-pick]")) pick();
  else if (target.matches("[data-sort]")) sort(target.value);
  else if (target.matches("[data-slide]")) slide(target.value.split(" "));
});

function cut(input, value) {
  input.value = value;
  input.parentElement.style.setProperty("--cut", value + "%");
}

// The cut follows the mouse; a finger drags it, because touching may be scrolling.
let pressed = null;
document.addEventListener("pointermove", ({ target, pointerType, offsetX }) => {
  if (pointerType === "mouse" && target.matches(".compare input")) cut(target, clamp(100 * offsetX / target.clientWidth, 0, 100));
});
document.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; });

document.addEventListener("click", ({ target, clientX, clientY, detail }) => {
  const button = target.closest("button");
  if (button?.matches("[data-reset]")) {
    all("[data-pick]").forEach((control) => { control.value = ""; });
    pick();
    document.querySelector("[data-pick]").focus();
  } else if (button?.matches("[data-theme-button]")) {
    switchTheme();
  } else if (button?.matches("[data-keys]")) {
    showKeys();
  } else if (button?.matches("[data-play]")) {
    play(button);
  } else if (target.matches("dialog.keys")) {
    target.close();  // the backdrop
  } else if (target.matches(".compare input, .still img, .still button")) {
    const still = detail === 0 || !pressed || Math.hypot(clientX - pressed[0], clientY - pressed[1]) < 5;
    if (still) lightbox.open(target.closest(".card"), target);
  }
});

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || typing(target) || document.querySelector("dialog[open]")) return;
  if (key === "?") showKeys();
  else if (key === "t") switchTheme();
  else if (key === "Enter" && target.matches(".compare input")) lightbox.open(target.closest(".card"), target);
  else if (key === "a") document.querySelector("[data-play]")?.click();
  else if (key === "j" || key === "k") step(target, key === "j" ? 1 : -1);
  else return;
  event.preventDefault();
});

// j and k move the focus from image to image, at first to the one in view. A filter may hide the last one.
let last = null;
function step(focused, direction) {
  const stops = all(".card:not([hidden]) :is(.compare input, .still.first button)").filter((stop) => stop.checkVisibility());
  const from = focused === document.body ? last : focused;
  const before = (stop) => !(from.compareDocumentPosition(stop) & Node.DOCUMENT_POSITION_FOLLOWING);
  const next = !from ? stops.find((stop) => stop.getBoundingClientRect().bottom > 0)
    : direction > 0 ? stops.find((stop) => stop !== from && !before(stop)) : stops.findLast((stop) => stop !== from && before(stop));
  if (!next) return;
  last = next;
  next.focus({ preventScroll: true });
  next.closest(".card").scrollIntoView({ block: "center" });
}

// A card stays visible if it has the exact value of every select, and every word of the search box in its caption.
function pick() {
  const active = all("[data-pick]").filter((control) => control.value);
  let shown = 0;
  for (const card of all(".gallery .card")) {
    card.hidden = active.some((control) => control.type === "search"
      ? !holds(card.querySelector("figcaption"), control.value)
      : card.dataset[control.dataset.pick] !== control.value);
    shown += card.hidden ? 0 : 1;
  }
  const counter = document.querySelector("[data-shown]"), message = document.querySelector("[data-no-match]");
  if (counter) counter.textContent = shown;
  if (message) message.hidden = shown > 0;
}

function holds(caption, words) {
  const text = caption.textContent.toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

function sort(order) {
  const [name, direction] = order.split(" ");
  const sign = direction === "down" ? -1 : 1;
  for (const gallery of all(".gallery")) {
    const cards = [...gallery.children];
    const of = (card) => name in card.dataset ? sign * Number(card.dataset[name]) : Infinity;  // cards without the value come last
    cards.sort((a, b) => of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0);
    gallery.append(...cards);
  }
}

// Of the three images of a card two are under the slider and one is beside it; only their src strings are swapped.
const images = new WeakMap();
function slide(order) {
  for (const card of all(".card.three")) {
    const slots = [".before", ".after", ".still img"].map((slot) => card.querySelector(slot));
    const corners = [".compare .left", ".compare .right", ".still .left"].map((slot) => card.querySelector(slot));
    if (!images.has(card)) {
      images.set(card, Object.fromEntries(slots.map((img) => [img.dataset.name, [img.src, img.alt]])));
    }
    order.forEach((name, i) => {
      [slots[i].src, slots[i].alt] = images.get(card)[name];
      slots[i].dataset.name = corners[i].textContent = name;
    });
    card.querySelector("input").setAttribute("aria-label", `${order[0]} or ${order[1]} of ${card.dataset.key}`);
  }
}

// ------------------------------------------------------------------------- images over the epochs
function showFrame(slider) {
  for (const img of all("[data-at]", slider.closest(".frames"))) img.hidden = img.dataset.at !== slider.value;
  slider.closest(".frames").querySelector("output").textContent = slider.dataset.labels.split("|")[slider.value];
  lightbox.update();
}

let playing = 0;
function play(button) {
  const slider = button.closest(".frames").querySelector("[data-frame]"), last = Number(slider.max);
  const show = (value) => { slider.value = value; showFrame(slider); };
  const stop = () => { clearInterval(playing); playing = 0; button.textContent = "▶"; button.setAttribute("aria-label", "Play"); };
  if (playing) return stop();
  if (Number(slider.value) === last) show(0);
  button.textContent = "❚❚";
  button.setAttribute("aria-label", "Pause");
  playing = setInterval(() => {
    if (Number(slider.value) >= last) return stop();
    show(Number(slider.value) + 1);
  }, 600);
}

// ---------------------------------------------------------------------------------------- lightbox
// The images of a card (each img[data-name] that is visible) side by side, and the difference between the target and
// those that data-compare of the card names (A|B, by default the input). All panes share one view: zoom, and x and y, the place of the left upper corner as a share of the pane.
const lightbox = {
  dialog: null, card: null, from: null, view: { zoom: 1, x: 0, y: 0 },

  open(card, from) {
    if (!card) return;
    if (!this.dialog) this.build();
    Object.assign(this, { card, from, view: { zoom: 1, x: 0, y: 0 } });
    if (!this.dialog.open) this.dialog.showModal();
    this.update();
  },

  build() {
    document.body.insertAdjacentHTML("beforeend", `<dialog class="lightbox" aria-label="Enlarged image">
<div class="lightbar"><strong></strong><span class="tools">
<button type="button" data-do="-1" aria-label="Previous image" title="Previous image (k)">‹</button><button type="button" data-do="1" aria-label="Next image" title="Next image (j)">›</button>
<button type="button" data-do="out" aria-label="Zoom out" title="Zoom out (−)">−</button><button type="button" data-do="fit" title="Fit (0)">1×</button><button type="button" data-do="in" aria-label="Zoom in" title="Zoom in (+)">+</button>
<label class="gain">difference ×<output>3</output> <input type="range" min="1" max="10" value="3"></label></span>
<button type="button" data-do="close" aria-label="Close" title="Close (Esc)">✕</button></div>
<div class="lightpanes"></div><p class="quiet small"></p></dialog>`);
    const dialog = this.dialog = document.body.lastElementChild;
    dialog.addEventListener("click", ({ target }) => { if (target.dataset.do) this.do(target.dataset.do); });
    dialog.addEventListener("close", () => this.from?.focus({ preventScroll: true }));
    dialog.addEventListener("keydown", (event) => {
      const names = { "+": "in", "=": "in", "-": "out", 0: "fit", j: "1", k: "-1", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
      if (!names[event.key] || event.target.matches("input")) return;
      event.preventDefault();
      this.do(names[event.key]);
    });
    dialog.querySelector("input").addEventListener("input", ({ target }) => {
      dialog.style.setProperty("--gain", target.value);
      dialog.querySelector("output").textContent = target.value;
    });
    const panes = dialog.querySelector(".lightpanes");
    panes.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pane = event.target.closest(".pane")?.getBoundingClientRect();
      if (pane) this.zoom(1.0015 ** -event.deltaY, (event.clientX - pane.left) / pane.width, (event.clientY - pane.top) / pane.height);
    }, { passive: false });
    panes.addEventListener("pointerdown", (event) => { if (event.target.closest(".pane")) panes.setPointerCapture(event.pointerId); });
    panes.addEventListener("pointermove", (event) => {
      const pane = panes.querySelector(".pane");
      if (panes.hasPointerCapture(event.pointerId)) this.move(event.movementX / pane.clientWidth, event.movementY / pane.clientHeight);
    });
    panes.addEventListener("dblclick", () => this.do(this.view.zoom > 1 ? "fit" : "in"));
    addEventListener("resize", () => this.update());
  },

  do(name) {
    const moves = { left: [0.2, 0], right: [-0.2, 0], up: [0, 0.2], down: [0, -0.2] };
    if (name === "close") this.dialog.close();
    else if (name === "in") this.zoom(1.5);
    else if (name === "out") this.zoom(1 / 1.5);
    else if (name === "fit") this.zoom(0);
    else if (this.view.zoom > 1 && moves[name]) this.move(...moves[name]);
    else this.go({ left: -1, right: 1 }[name] ?? Number(name) ?? 0);
  },

  go(direction) {
    const cards = all(".card:not([hidden])", this.card.closest(".gallery, .frames"));
    const next = cards[cards.indexOf(this.card) + direction];
    if (next) this.open(next, next.querySelector(".compare input, .still button") ?? this.from);
  },

  zoom(factor, x = 0.5, y = 0.5) {
    const { view } = this, zoom = clamp(view.zoom * factor, 1, 32);
    view.x = x - (x - view.x) * zoom / view.zoom;
    view.y = y - (y - view.y) * zoom / view.zoom;
    view.zoom = zoom;
    this.move(0, 0);
  },

  move(x, y) {
    const { view, dialog } = this;
    view.x = clamp(view.x + x, 1 - view.zoom, 0);
    view.y = clamp(view.y + y, 1 - view.zoom, 0);
    for (const [name, value] of Object.entries({ zoom: view.zoom, x: 100 * view.x + "%", y: 100 * view.y + "%" })) dialog.style.setProperty("--" + name, value);
    dialog.classList.toggle("pixels", view.zoom > 1.5);
    dialog.querySelector("[data-do=fit]").textContent = view.zoom.toFixed(view.zoom < 10 && view.zoom > 1 ? 1 : 0) + "×";
  },

  update() {
    if (!this.dialog?.open) return;
    const { dialog, card } = this;
    const shown = new Map(all("img[data-name]", card).filter((img) => !img.hidden).map((img) => [img.dataset.name, img]));
    const order = ["input", "output", "target"], names = [...shown.keys()].sort((a, b) => order.includes(a) && order.includes(b) ? order.indexOf(a) - order.indexOf(b) : 0);
    const panes = names.map((name) => [name, [shown.get(name)]]);
    for (const name of (card.dataset.compare ?? "input").split("|")) {
      if (shown.has("target") && shown.has(name)) panes.push([`difference of ${name} and target`, [shown.get(name), shown.get("target")]]);
    }
    dialog.querySelector(".gain").hidden = panes.length === names.length;
    // The texts first: the images get the space that is left.
    dialog.querySelector("strong").textContent = card.dataset.key ?? card.querySelector(".name")?.textContent ?? "";
    dialog.querySelector("p").textContent = all(".row:not(.tags) > span", card).map((part) => part.textContent).join(" · ");
    const [first] = shown.values(), { naturalWidth: width, naturalHeight: height } = first;
    const box = dialog.querySelector(".lightpanes");
    box.replaceChildren(...panes.map(([name, imgs]) => {
      const figure = document.createElement("figure"), pane = document.createElement("div"), caption = document.createElement("figcaption");
      pane.className = "pane" + (imgs.length > 1 ? " difference" : "");
      pane.append(...imgs.map((img) => Object.assign(new Image(), { src: img.src, alt: `${name} of ${card.dataset.key ?? ""}`, draggable: false })));
      caption.textContent = name;
      figure.append(pane, caption);
      return figure;
    }));
    // As many columns as make the images largest.
    const side = (columns) => Math.min(((box.clientWidth + 12) / columns - 12) / width, ((box.clientHeight + 12) / Math.ceil(panes.length / columns) - 40) / height);
    const columns = panes.map((_, i) => i + 1).reduce((best, c) => side(c) > side(best) ? c : best, 1);
    box.style.setProperty("--columns", columns);
    box.style.setProperty("--width", Math.max(40, Math.floor(side(columns) * width)) + "px");
    box.style.setProperty("--ratio", width / height);
    this.move(0, 0);
  },
};

// -------------------------------------------------------------------------------------------- tabs
// Without this script all panels are shown, one below the other.
for (const tabs of all(".tabs")) {
  const panels = all(":scope > section", tabs), bar = document.createElement("div");
  bar.className = "segments";
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", tabs.dataset.label ?? "");
  const buttons = panels.map((panel) => Object.assign(document.createElement("button"), { type: "button", textContent: panel.dataset.tab }));
  const show = (chosen) => buttons.forEach((button, i) => {
    panels[i].hidden = i !== chosen;
    button.setAttribute("aria-pressed", i === chosen);
  });
  buttons.forEach((button, i) => button.addEventListener("click", () => show(i)));
  bar.append(...buttons);
  if (panels.length > 1) tabs.prepend(bar);
  show(0);
}
