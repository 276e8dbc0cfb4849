"use strict";
document.addEventListener("input", ({ target }) => {
  if (target.matches(".compare input")) {
    target.parentElement.style.setProperty("--cut", target.value + "%");
  } else if (target.matches(".frames input")) {
    const frames = target.closest(".frames");
    frames.querySelectorAll("img").forEach((img, place) => { img.hidden = place != target.value; });
    frames.querySelector("output").textContent = frames.querySelectorAll("img")[target.value].alt;
  } else if (target.matches("[data-pick]")) {
    pick();
  } else if (target.matches("[data-sort]")) {
    sort(target.value);
  } else if (target.matches("[data-slide]")) {
    slide(target.value.split(" "));
  }
});

document.addEventListener("click", ({ target }) => {
  if (target.matches("[data-reset]")) {
    document.querySelectorAll("[data-pick]").forEach((control) => { control.value = ""; });
    pick();
    document.querySelector("[data-pick]").focus();
  }
});

// j and k move the focus from slider to slider; in a text box they are letters.
document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  if (!["j", "k"].includes(key) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (target.matches("select, textarea, [contenteditable]") || (target.matches("input") && target.type !== "range")) return;
  const sliders = [...document.querySelectorAll(".card:not([hidden]) .compare input")];
  const next = sliders[sliders.indexOf(target) + (key === "j" ? 1 : -1)] ?? (sliders.includes(target) ? null : sliders[0]);
  if (!next) return;
  event.preventDefault();
  next.focus({ preventScroll: true });
  next.closest(".card").scrollIntoView({ block: "center" });
});

// A card stays visible if it has the exact value of every select, and every word of the search box in its caption.
function pick() {
  const active = [...document.querySelectorAll("[data-pick]")].filter((control) => control.value);
  let shown = 0;
  for (const card of document.querySelectorAll(".card")) {
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
  for (const gallery of document.querySelectorAll(".gallery")) {
    const cards = [...gallery.children];
    const of = (card) => name in card.dataset ? sign * Number(card.dataset[name]) : Infinity;  // cards without the value come last
    cards.sort((a, b) => of(a) < of(b) ? -1 : of(a) > of(b) ? 1 : 0);
    gallery.append(...cards);
  }
}

// Of the three images of a card two are under the slider and one is beside it; only their src strings are swapped.
const images = new WeakMap();
function slide(order) {
  for (const card of document.querySelectorAll(".card.three")) {
    const slots = [".before", ".after", ".still img"].map((slot) => card.querySelector(slot));
    const corners = [".compare .left", ".compare .right", ".still .left"].map((slot) => card.querySelector(slot));
    if (!images.has(card)) {
      images.set(card, Object.fromEntries(slots.map((img, i) => [corners[i].textContent, [img.src, img.alt]])));
    }
    order.forEach((name, i) => {
      [slots[i].src, slots[i].alt] = images.get(card)[name];
      corners[i].textContent = name;
    });
    card.querySelector("input").setAttribute("aria-label", `${order[0]} or ${order[1]} of ${card.dataset.key}`);
  }
}
